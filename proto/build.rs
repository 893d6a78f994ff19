//! Compiles `forebay/v1/*.proto` without protoc and keeps the descriptor set for reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 9] =
    ["checkpoint", "coordinator", "debug", "election", "errors", "server_link", "snapshot", "state", "stream"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=forebay");
    let files = FILES.map(|name| format!("forebay/v1/{name}.proto"));
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptor.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
