//! `explain`: the error catalogue. What a reason means stands in the contract, `errors.proto`, and nowhere else.

use clap::Args;
use forebay_proto::{Advice, v1::ErrorReason};
use serde_json::{Value as Json, json};

use crate::{
    failure::Failure,
    output::{Answer, columns, facts},
};

const CONTRACT: &str = include_str!("../../../proto/forebay/v1/errors.proto");
/// Names that are less alike than this are no slip of the pen.
const ALIKE: f64 = 0.8;

/// Tell what an error means and what to do about it.
#[derive(Debug, Args)]
pub struct Explain {
    /// The reason: the word in brackets behind a message, such as WRITER_FENCED. All of them, if none is given.
    reason: Option<String>,
}

impl Explain {
    /// Tells it; no server is asked.
    pub fn answer(&self) -> Result<Answer, Failure> {
        let Some(typed) = &self.reason else { return Ok(all()) };
        let name = typed.trim().to_uppercase().replace('-', "_");
        let reason = ErrorReason::from_name(&name).filter(|reason| *reason != ErrorReason::Unspecified);
        let reason = reason.ok_or_else(|| unknown(typed, &name))?;
        let mut rows = vec![
            ("reason", reason.name().to_owned()),
            ("means", meaning(reason)),
            ("to do", to_do(reason.advice()).to_owned()),
            ("gRPC code", code(reason)),
            ("wait", wait(reason)),
        ];
        let hint = Failure::refused(reason, "").hint();
        rows.extend(hint.map(|hint| ("hint", hint.to_owned())));
        Ok(Answer::new(facts(rows), shown(reason)))
    }
}

fn all() -> Answer {
    let rows = ErrorReason::all().map(|reason| [reason.name().to_owned(), code(reason), meaning(reason)]);
    let json = json!({ "reasons": ErrorReason::all().map(shown).collect::<Vec<_>>() });
    Answer::new(columns(["REASON", "GRPC CODE", "MEANS"], rows), json)
}

fn shown(reason: ErrorReason) -> Json {
    json!({
        "reason": reason.name(),
        "means": meaning(reason),
        "to_do": to_do(reason.advice()),
        "code": code(reason),
        "retry_after_ms": reason.retry_after().map(|wait| wait.as_millis() as u64),
        "hint": Failure::refused(reason, "").hint(),
    })
}

/// What the contract says of a reason: the comment above it.
fn meaning(reason: ErrorReason) -> String {
    let mut said = Vec::new();
    for line in CONTRACT.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("//") {
            said.push(comment.trim());
            continue;
        }
        if line.split(' ').next() == Some(reason.as_str_name()) {
            break;
        }
        said.clear();
    }
    said.join(" ")
}

fn to_do(advice: Advice) -> &'static str {
    match advice {
        Advice::FixCall => "change the call: it fails again however often it is made",
        Advice::WrongState => "look at what is there: the call is right, but not in this state of things",
        Advice::SendAgain => "nothing: clients send again, in order",
        Advice::LookUp => "nothing: clients look up the routing and send again",
        Advice::Rejoin => {
            "drop what is cached and unsent, and join or open the lane again; the SDK does, and tells the worker"
        }
        Advice::Wait => "wait, then make the same call again; the SDK does",
        Advice::Missing => "check the name: there is nothing of it",
        Advice::Broken => "keep the files, look at the server's log, and restore: stored data is damaged",
        Advice::Identity => "send a valid identity, or have it permitted",
        Advice::Internal => "report it: this is a fault of Forebay",
    }
}

/// The code as gRPC writes it, such as FAILED_PRECONDITION.
fn code(reason: ErrorReason) -> String {
    let mut name = String::new();
    for letter in format!("{:?}", reason.code()).chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

fn wait(reason: ErrorReason) -> String {
    match reason.retry_after() {
        Some(wait) if wait.is_zero() => "none: send again at once".to_owned(),
        Some(wait) => {
            format!("{} before it is made again, unless the answer says otherwise", humantime::format_duration(wait))
        }
        None => "it is not made again".to_owned(),
    }
}

fn unknown(typed: &str, name: &str) -> Failure {
    let alike = ErrorReason::all().map(|reason| (strsim::jaro_winkler(name, reason.name()), reason.name()));
    let nearest = alike.max_by(|one, other| one.0.total_cmp(&other.0)).filter(|(alike, _)| *alike > ALIKE);
    let advice = nearest.map_or_else(
        || "`forebayctl explain` lists all".to_owned(),
        |(_, nearest)| format!("is {nearest} meant? (`forebayctl explain` lists all)"),
    );
    Failure::usage(ErrorReason::NameInvalid, format!("there is no reason {typed:?}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explain(reason: &str) -> Result<Answer, Failure> {
        Explain { reason: Some(reason.to_owned()) }.answer()
    }

    #[test]
    fn every_reason_is_explained_by_the_contract() {
        for reason in ErrorReason::all() {
            let meaning = meaning(reason);
            assert!(meaning.ends_with('.') && meaning.len() > 10, "{reason:?}: {meaning:?}");
            assert!(explain(reason.name()).unwrap().text.contains(&meaning), "{reason:?}");
        }
    }

    #[test]
    fn a_reason_may_be_typed_as_it_is_said() {
        for typed in ["WRITER_FENCED", "writer-fenced", " Writer_Fenced "] {
            let answer = explain(typed).unwrap();
            assert!(answer.text.contains("A newer writer holds the shard"), "{}", answer.text);
            assert_eq!(
                (&answer.json["code"], &answer.json["retry_after_ms"]),
                (&json!("FAILED_PRECONDITION"), &Json::Null)
            );
        }
        assert_eq!(explain("SHARD_MOVED").unwrap().json["retry_after_ms"], 100);
    }

    #[test]
    fn a_slip_of_the_pen_is_told_what_was_meant() {
        assert!(explain("WRITER_FENCE").unwrap_err().to_string().contains("is WRITER_FENCED meant?"));
        let far = explain("BANANA").unwrap_err().to_string();
        assert!(far.contains("there is no reason \"BANANA\": `forebayctl explain` lists all"), "{far}");
        assert!(explain("UNSPECIFIED").is_err());
    }
}
