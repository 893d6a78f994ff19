//! Rules about the sources that a reader would otherwise have to remember: the arrows between modules,
//! which files are pure, how long files are.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Each crate of the workspace and the others of it that it may use.
const CRATES: [(&str, &[&str]); 5] = [
    ("proto", &[]),
    ("server", &["forebay-proto"]),
    ("client/rust", &["forebay-proto"]),
    ("client/cli", &["forebay-client", "forebay-proto"]),
    ("integration-tests", &["forebay-client", "forebay-proto", "forebay-server"]),
];

/// Each module of the server and the modules it may use. Nothing points back.
const ARROWS: [(&str, &[&str]); 8] = [
    ("storage", &[]),
    ("checkpoint", &[]),
    ("lease", &[]),
    ("seeded", &[]),
    ("telemetry", &[]),
    ("shard", &["storage", "checkpoint", "lease", "seeded"]),
    ("coordinator", &["checkpoint", "lease", "seeded"]),
    ("grpc", &["shard", "coordinator", "lease"]),
];

/// Files that decide and do nothing: no I/O, no clock, no task.
const PURE: [&str; 40] = [
    "shard/core.rs",
    "shard/core/freezing.rs",
    "shard/core/opening.rs",
    "shard/core/storing.rs",
    "shard/core/sweep.rs",
    "shard/core/views.rs",
    "shard/core/writing.rs",
    "shard/durable.rs",
    "shard/gate.rs",
    "shard/key.rs",
    "shard/lanes.rs",
    "shard/place.rs",
    "shard/positions.rs",
    "shard/requests.rs",
    "shard/snapshot/known.rs",
    "shard/states.rs",
    "shard/ttl.rs",
    "coordinator/assign.rs",
    "coordinator/cuts.rs",
    "coordinator/descriptors.rs",
    "coordinator/election.rs",
    "coordinator/external.rs",
    "coordinator/garbage.rs",
    "coordinator/groups.rs",
    "coordinator/machine.rs",
    "coordinator/machine/collect.rs",
    "coordinator/machine/external.rs",
    "coordinator/machine/moving.rs",
    "coordinator/machine/pins.rs",
    "coordinator/machine/rounds.rs",
    "coordinator/machine/stopping.rs",
    "coordinator/machine/tell.rs",
    "coordinator/members.rs",
    "coordinator/moves.rs",
    "coordinator/plan.rs",
    "coordinator/restore.rs",
    "coordinator/retention.rs",
    "coordinator/round.rs",
    "coordinator/spec.rs",
    "coordinator/wanted.rs",
];

const IMPURE: [&str; 8] =
    ["tokio", "std::time", "std::fs", "SystemTime", "Instant::now", "rand::", "lease::", "Uuid::new"];

fn root() -> PathBuf {
    // Tests run in their package's folder. The one it was compiled in may be another: builds share a cache.
    std::env::current_dir().unwrap().join("src")
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

fn module_of(path: &Path) -> String {
    let first = path.strip_prefix(root()).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The code of a file, without its tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The modules that a file names behind `crate::`, alone or in a list.
fn modules_named(code: &str) -> Vec<String> {
    let mut named = Vec::new();
    for after in code.split("crate::").skip(1) {
        match after.strip_prefix('{') {
            None => named.push(after.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned()),
            Some(list) => {
                let mut depth = 0;
                let mut word = String::new();
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => named.push(std::mem::take(&mut word)),
                        c if depth == 0 && !c.is_whitespace() => word.push(c),
                        _ => {}
                    }
                }
                named.push(word);
                named.iter_mut().for_each(|path| path.truncate(path.find(':').unwrap_or(path.len())));
                named.retain(|path| !path.is_empty());
            }
        }
    }
    named
}

fn manifest(folder: &str) -> toml::Table {
    let path = root().join("../..").join(folder).join("Cargo.toml");
    fs::read_to_string(&path).unwrap().parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn arrows_between_crates_run_one_way() {
    let workspace = manifest("");
    let members: Vec<_> = workspace["workspace"]["members"].as_array().unwrap().iter().collect();
    assert_eq!(members.len(), CRATES.len());
    for (folder, allowed) in CRATES {
        assert!(members.iter().any(|member| member.as_str() == Some(folder)), "{folder}");
        let manifest = manifest(folder);
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let Some(table) = manifest.get(kind).and_then(toml::Value::as_table) else { continue };
            let wrong: Vec<_> = table.keys().filter(|name| name.starts_with("forebay")).collect();
            assert!(wrong.iter().all(|name| allowed.contains(&name.as_str())), "{folder} uses {wrong:?}");
        }
    }
}

#[test]
fn arrows_between_modules_run_one_way() {
    let mut wrong = Vec::new();
    for path in sources(&root()) {
        let module = module_of(&path);
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == module) else { continue };
        for named in modules_named(&code(&path)) {
            let is_module = ARROWS.iter().any(|(name, _)| *name == named);
            if is_module && named != module && !allowed.contains(&named.as_str()) {
                wrong.push(format!("{} uses {named}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_arrow_test_sees_modules_in_lists() {
    let named = modules_named("use crate::{\n    grpc::{self, Served},\n    lease::Lease,\n};\ncrate::shard::core");
    assert_eq!(named, ["grpc", "lease", "shard"]);
}

#[test]
fn only_the_edge_names_tonic() {
    for path in sources(&root()) {
        let names_tonic = code(&path).contains("tonic::");
        assert!(!names_tonic || module_of(&path) == "grpc", "{} names tonic", path.display());
    }
}

/// Clause a of garbage collection: servers never delete in the object store.
#[test]
fn only_the_coordinator_deletes_objects() {
    for path in sources(&root().join("shard")) {
        let code = code(&path);
        assert!(!code.contains("store.delete("), "{} deletes an object", path.display());
    }
}

#[test]
fn pure_files_have_no_clock_no_task_and_no_files() {
    for name in PURE {
        let code = code(&root().join(name));
        for word in IMPURE {
            assert!(!code.contains(word), "{name} is pure but names {word}");
        }
    }
}

#[test]
fn every_file_can_be_read_in_one_sitting() {
    let workspace = root().parent().unwrap().parent().unwrap().to_owned();
    for folder in ["proto/src", "server/src", "client", "integration-tests"] {
        for path in sources(&workspace.join(folder)) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 600, "{} has {lines} lines: one idea a file", path.display());
        }
    }
}

/// Ids of the invariants whose tests docs/promises.md lists by name.
const INVARIANTS: [(char, u32); 7] = [('D', 6), ('E', 8), ('F', 7), ('R', 5), ('S', 5), ('L', 5), ('K', 2)];

#[test]
fn every_invariant_has_tests_of_two_kinds_or_is_said_to_have_none() {
    let text = fs::read_to_string(root().join("../../docs/promises.md")).unwrap();
    let by_id = text.split("## By id").nth(1).unwrap();
    let cells = |line: &str| line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows: Vec<_> = by_id.lines().filter(|line| line.starts_with("| ")).map(cells).collect();
    let repository = root().join("../..");
    let folders = ["server", "client", "proto", "integration-tests"];
    let files: Vec<_> = folders.iter().flat_map(|folder| sources(&repository.join(folder))).collect();
    let code: Vec<_> = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    for (letter, count) in INVARIANTS {
        for id in (1..=count).map(|number| format!("{letter}{number}")) {
            let row = rows.iter().find(|row| row[1] == id).unwrap_or_else(|| panic!("{id} is not in docs/promises.md"));
            if row.len() == 4 {
                assert!(!row[2].is_empty(), "{id}: say what is missing");
                continue;
            }
            for kind in [&row[3], &row[4]] {
                let tests: Vec<_> = kind.split('`').skip(1).step_by(2).collect();
                assert!(!tests.is_empty(), "{id} has tests of one kind only");
                for test in tests {
                    let found = code.iter().any(|code| code.contains(&format!("fn {test}(")));
                    assert!(found, "{id}: there is no test {test}");
                }
            }
        }
    }
}
