//! `make demo` as the README gives it, over fewer flights.

#![cfg(all(feature = "rocksdb", feature = "s3"))]

use std::path::{Path, PathBuf};

use forebay_integration_tests::{flights::cut, harness::binary};
use tokio::process::Command;

use crate::session::agrees;

const FLIGHTS: usize = 30_000;

fn root() -> PathBuf {
    forebay_integration_tests::folder().join("..")
}

/// What the Makefile runs once everything is built.
async fn command(input: &Path, variables: &[&str]) -> Command {
    let target = binary("demo").parent().and_then(Path::parent).expect("it is in target/release").to_owned();
    let mut make = Command::new("make");
    for name in ["MAKEFLAGS", "MFLAGS", "MAKELEVEL", "BACKEND", "S3", "INPUT"] {
        make.env_remove(name);
    }
    make.args(["--no-print-directory", "--dry-run", "demo"]).args(variables).arg(format!("INPUT={}", input.display()));
    let printed = make.env("CARGO_TARGET_DIR", target).current_dir(root()).output().await.expect("make is there");
    let printed = String::from_utf8(printed.stdout).unwrap();
    let mut words = printed.lines().last().expect("the recipe is not empty").split_whitespace();
    let program = words.next().unwrap();
    assert!(program.ends_with("/release/demo"), "{printed}");
    let mut demo = Command::new(binary("demo"));
    demo.args(words).current_dir(root()).kill_on_drop(true);
    demo
}

/// The last line of the demo, as the README shows it.
fn promised() -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).unwrap();
    let line = readme.lines().find(|line| line.starts_with("exact: ")).expect("the README shows the last line");
    line.replace("336776", &FLIGHTS.to_string())
}

async fn is_exact(input: &Path, variables: &[&str], promised: &str) {
    let output = command(input, variables).await.output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let last = said.lines().last().unwrap_or_default();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && agrees(promised, last), "{variables:?}: {said}\n{complaint}");
    let digests: Vec<_> = last.split([' ', ';']).filter(|word| word.len() == 32).collect();
    assert!(digests.len() == 2 && digests[0] == digests[1], "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_is_exact_and_ends_as_the_readme_says() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("flights.csv");
    cut(&root().join("integration-tests/data/flights-2013.csv.zst"), &input, FLIGHTS).unwrap();
    let promised = promised();
    // In memory a killed server has lost its state, whatever is on its disk.
    let in_memory = promised.replace("rewinds 2", "rewinds 3");
    tokio::join!(
        is_exact(&input, &[], &promised),
        is_exact(&input, &["S3=1"], &promised),
        is_exact(&input, &["BACKEND=memory"], &in_memory)
    );
}
