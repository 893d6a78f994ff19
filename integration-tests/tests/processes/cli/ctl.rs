//! Runs `forebayctl`.

use std::{fmt::Debug, process::Stdio};

use forebay_integration_tests::harness::{Forebay, binary, within};
use serde_json::Value as Json;
use tokio::process::Command;

/// `forebayctl`, pointed at a server of its own.
pub struct Ctl {
    forebay: Forebay,
}

/// What a run said, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ctl {
    /// Starts a server.
    pub async fn start() -> Self {
        Self { forebay: Forebay::dev().await }
    }

    /// Starts a server and makes the job `shop`: the operators `carts`, shared, and `stats`, leased.
    pub async fn with_shop() -> Self {
        let ctl = Self::start().await;
        ctl.text(&["job", "create", "shop", "--operator", "carts:shared:shards=2", "--operator", "stats:shards=1"])
            .await;
        ctl
    }

    /// Where the server serves.
    pub fn url(&self) -> String {
        self.forebay.url()
    }

    /// Runs a command.
    pub async fn run(&self, words: &[&str]) -> Said {
        run(&self.url(), words).await
    }

    /// Runs a command that must succeed, and returns its table.
    pub async fn text(&self, words: &[&str]) -> String {
        let said = self.run(words).await;
        assert_eq!(said.code, 0, "{words:?}: {said:#?}");
        said.stdout
    }

    /// Runs a command that must succeed, and returns the cells of its table, head first.
    pub async fn cells(&self, words: &[&str]) -> Vec<Vec<String>> {
        cells(&self.text(words).await)
    }

    /// Runs a command with `--output json` that must succeed, and returns its one document.
    pub async fn json(&self, words: &[&str]) -> Json {
        let said = self.run(&[words, &["--output", "json"]].concat()).await;
        assert_eq!(said.code, 0, "{words:?}: {said:#?}");
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{words:?}: {error}: {said:#?}"))
    }

    /// Runs a command that must fail with a code and a reason, in both formats.
    pub async fn refuses(&self, words: &[&str], code: i32, reason: &str) -> String {
        let mut message = String::new();
        for format in ["table", "json"] {
            let said = self.run(&[words, &["-o", format]].concat()).await;
            fails(words, &said, code, reason);
            message = said.stderr;
        }
        message
    }
}

/// Checks a failure: its code, its line on stderr, and nothing on stdout.
pub fn fails(words: &(impl Debug + ?Sized), said: &Said, code: i32, reason: &str) {
    assert_eq!((said.code, said.stdout.as_str()), (code, ""), "{words:?}: {said:#?}");
    let line = said.stderr.lines().next().unwrap_or_default();
    let named = line.starts_with("forebayctl: ") && line.ends_with(&format!(" ({reason})"));
    assert!(named, "{words:?}: {reason} expected: {said:#?}");
}

/// Runs `forebayctl` against an address.
pub async fn run(server: &str, words: &[&str]) -> Said {
    let child = Command::new(binary("forebayctl"))
        .args(words)
        .env("FOREBAY_SERVER", server)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within(&format!("{words:?}"), child).await.expect("forebayctl starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text is UTF-8");
    Said { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Splits a table at the two spaces between its columns.
fn cells(table: &str) -> Vec<Vec<String>> {
    let line =
        |line: &str| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).map(str::to_owned).collect();
    table.lines().map(line).collect()
}
