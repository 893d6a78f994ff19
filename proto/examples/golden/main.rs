//! Writes `testdata/*.json` anew: `cargo run --release -p forebay-proto --example golden`.
//!
//! A change of an existing vector is a change of the format: stored state and other languages break.

mod vectors;

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    // As cargo tells it now: the one this was compiled in may be another checkout.
    let package = env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| io::Error::other("run it by cargo"))?;
    let directory = Path::new(&package).join("testdata");
    fs::create_dir_all(&directory)?;
    for (name, file) in vectors::all() {
        let mut text = String::from("{\n");
        for (index, (section, content)) in file.as_object().into_iter().flatten().enumerate() {
            text += if index == 0 { "" } else { ",\n" };
            text += &format!("  {}: ", serde_json::json!(section));
            text += &lines(content);
        }
        fs::write(directory.join(name), text + "\n}\n")?;
    }
    Ok(())
}

/// Writes a list with one element per line, so that a diff shows the vectors that changed.
fn lines(content: &serde_json::Value) -> String {
    let Some(elements) = content.as_array() else { return content.to_string() };
    let elements: Vec<_> = elements.iter().map(|element| format!("    {element}")).collect();
    format!("[\n{}\n  ]", elements.join(",\n"))
}
