//! Arguments that the benches have in common.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, builder::RangedU64ValueParser};

use super::{rows::default_folder, stand};
use crate::harness::Setup;

/// How often, how thoroughly, and where to.
#[derive(Debug, Args)]
pub struct Common {
    /// Number of runs; figures and ratios are medians over them.
    #[arg(long, default_value_t = 5, value_parser = RangedU64ValueParser::<usize>::new().range(1..))]
    pub runs: usize,
    /// A smoke run of a few seconds; its figures mean nothing.
    #[arg(long)]
    pub quick: bool,
    /// Folder for ratios.json, which is added to [default: bench, beside the folder of this binary].
    #[arg(long)]
    out: Option<PathBuf>,
    /// Setting of Forebay's servers, such as server.http2.frame=64KiB. Figures of such a run are not those of the
    /// documents.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is needed")?;
    Ok((key.to_owned(), value.to_owned()))
}

impl Common {
    /// One of two, the second for a smoke run.
    pub fn or_quick<T>(&self, usual: T, quick: T) -> T {
        if self.quick { quick } else { usual }
    }

    /// Forebay as it is to be started.
    pub fn forebay(&self) -> Setup {
        self.settings.iter().fold(stand::dev(), |setup, (key, value)| setup.set(key, value))
    }

    /// Folder for ratios.json.
    pub fn out(&self) -> Result<PathBuf> {
        self.out.clone().map_or_else(default_folder, Ok)
    }
}
