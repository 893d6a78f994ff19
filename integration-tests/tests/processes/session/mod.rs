//! Sessions in documents: the commands of a Markdown file, run one block after the other, with their answers
//! compared.
//!
//! A block fenced as `sh` holds commands; a block of another language right after it is the answer. In an
//! answer `…` stands for anything, and white space does not count.

use std::{path::Path, process::Stdio};

use forebay_integration_tests::harness::{Forebay, eventually, within};
use forebay_proto::v1::{ListJobsRequest, ShardStatus};
use tokio::process::Command;

/// Where a server listens in the documents.
const ADDRESS: &str = "localhost:7400";

/// A block of commands and the answer that the document gives.
#[derive(Debug, PartialEq)]
pub struct Step {
    /// The commands.
    pub commands: String,
    /// The answer; none if the document gives none.
    pub answer: Option<String>,
}

/// Runs the steps of a document whose commands start with `program`, against a server of its own.
///
/// # Panics
/// If the document has no such step, or an answer is another one.
pub async fn holds(document: &str, program: &str, folder: &Path) {
    let path = forebay_integration_tests::folder().join("..").join(document);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let steps: Vec<_> = steps(&text).into_iter().filter(|step| step.commands.starts_with(program)).collect();
    assert!(steps.len() > 3, "{document} has {} blocks of {program}", steps.len());
    let forebay = Forebay::dev().await;
    for step in steps {
        settled(&forebay).await;
        let said = run(&step.commands, folder, &forebay).await;
        if let Some(answer) = &step.answer {
            assert!(agrees(answer, &said), "{document}\n$ {}expected:\n{answer}\ngot:\n{said}", step.commands);
        }
    }
}

/// Waits until all shards serve; a person types slower than that.
async fn settled(forebay: &Forebay) {
    let api = forebay.api();
    eventually("all shards serve", || async {
        let jobs = api.coordinator().list_jobs(ListJobsRequest {}).await.ok()?.into_inner().jobs;
        let serves = jobs.iter().flat_map(|job| &job.shards).all(|shard| shard.status() == ShardStatus::Serving);
        serves.then_some(())
    })
    .await;
}

async fn run(commands: &str, folder: &Path, forebay: &Forebay) -> String {
    let address = forebay.url().trim_start_matches("http://").to_owned();
    let path = std::env::var("PATH").unwrap_or_default();
    let child = Command::new("bash")
        .args(["-c", &format!("exec 2>&1; {}", commands.replace(ADDRESS, &address))])
        .env("PATH", format!("{}:{path}", folder.display()))
        .env("FOREBAY_SERVER", forebay.url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within(commands, child).await.expect("bash is there");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let block: String =
            lines.by_ref().take_while(|line| !line.starts_with("```")).map(|line| format!("{line}\n")).collect();
        match steps.last_mut() {
            _ if language == "sh" => steps.push(Step { commands: block, answer: None }),
            Some(step) if step.answer.is_none() => step.answer = Some(block),
            _ => {}
        }
    }
    steps
}

/// Compares without white space, which differs between builds of grpcurl; `…` stands for anything.
pub fn agrees(expected: &str, said: &str) -> bool {
    let bare = |text: &str| -> String { text.split_whitespace().collect() };
    let (expected, said) = (bare(expected), bare(said));
    let mut parts = expected.split('…');
    let Some(mut rest) = parts.next().and_then(|start| said.strip_prefix(start)) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(end) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(end)
}

#[test]
fn a_block_after_commands_is_their_answer() {
    let found = steps("a\n```sh\nx \\\n  y\n```\nsays\n```text\n1\n```\n```text\n2\n```\n```sh\nz\n```\n");
    let answered = Step { commands: "x \\\n  y\n".into(), answer: Some("1\n".into()) };
    assert_eq!(found, [answered, Step { commands: "z\n".into(), answer: None }]);
}

#[test]
fn dots_stand_for_what_varies() {
    for (expected, said) in [
        ("a\n…\nb", "a\n1\n2\nb"),
        ("a\n…\nb", "a\nb"),
        ("id: …,", "id: 5,"),
        ("x … y …", "x 1 y 2"),
        ("a   b", "a\tb \n"),
        ("{\n  x: {},\n…", "{x: {\n  \n}, y}"),
    ] {
        assert!(agrees(expected, said), "{expected:?} {said:?}");
    }
    for (expected, said) in [("a", "a\nb"), ("a\nb", "a"), ("id: …,", "id: 5"), ("…\nb", "b\nc"), ("a…a", "a")] {
        assert!(!agrees(expected, said), "{expected:?} {said:?}");
    }
}
