//! Plays a scenario against a target.

use std::collections::BTreeMap;

use forebay_proto::{
    packed::Answers,
    packed_list,
    v1::{self, ErrorReason, OpKind, StateKind},
};
use serde_json::Value;

use super::{
    Answered, Inside, OwnedOp, Target, Times, answers,
    format::{Descriptor, Op, Scenario, Step},
    values::encode,
};

/// Plays a scenario; an error says at which step what was wrong.
pub async fn run(scenario: &Scenario, target: &mut dyn Target) -> Result<(), String> {
    let mut player = Player {
        states: scenario.states.clone(),
        versions: BTreeMap::new(),
        last: Vec::new(),
        verdicts: Vec::new(),
        target,
    };
    for (index, step) in scenario.steps.iter().enumerate() {
        player.step(step).await.map_err(|wrong| format!("{:?}, step {index}: {wrong}", scenario.name))?;
    }
    Ok(())
}

struct Player<'a> {
    target: &'a mut dyn Target,
    states: Vec<Descriptor>,
    versions: BTreeMap<String, u64>,
    /// The last write batch, and the verdicts it had.
    last: Vec<Op>,
    verdicts: Vec<Option<bool>>,
}

impl Player<'_> {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let times = Times { now_ms: step.now_ms, watermark_ms: step.watermark_ms };
        if let Some(ops) = &step.write {
            let answered = self.target.write(self.pack(ops), times).await;
            let Some(answer) = outcome(step, answered)? else { return Ok(()) };
            check(!answer.duplicate, || "a new batch is called a duplicate".into())?;
            self.last.clone_from(ops);
            self.verdicts = verdicts(ops.len(), answer)?;
            return self.check_verdicts();
        }
        if let Some(ops) = &step.read {
            return self.read(step, ops, times).await;
        }
        if step.duplicate {
            let Some(answer) = outcome(step, self.target.resend().await)? else { return Ok(()) };
            check(answer.duplicate, || "a batch sent again is applied again".into())?;
            let before = std::mem::replace(&mut self.verdicts, verdicts(self.last.len(), answer)?);
            check(before == self.verdicts, || format!("verdicts were {before:?}, now {:?}", self.verdicts))?;
            return Ok(());
        }
        if let Some(descriptor) = &step.describe {
            let known = self.states.iter_mut().find(|state| state.name == descriptor.name);
            *known.ok_or("describe names a new state")? = descriptor.clone();
            self.target.describe(descriptor.wire()).await;
            return Ok(());
        }
        self.inside(step).await
    }

    async fn inside(&mut self, step: &Step) -> Result<(), String> {
        let what = match step {
            Step { advance_ms: Some(ms), .. } => Inside::Advance(*ms),
            Step { compact: true, .. } => Inside::Compact,
            Step { restore: true, .. } => Inside::Restore,
            Step { reopen: true, .. } => Inside::Reopen,
            Step { clean_up: true, .. } => Inside::CleanUp,
            Step { rows: Some(rows), .. } => {
                let (id, _) = self.state(Some(&rows.state));
                let count = self.target.inside(Inside::Rows(id)).await;
                return check(count == rows.count, || format!("{} has {count} rows: {}", rows.state, rows.count));
            }
            _ => return Err("the step does nothing".into()),
        };
        self.target.inside(what).await;
        Ok(())
    }

    async fn read(&mut self, step: &Step, ops: &[Op], times: Times) -> Result<(), String> {
        let answered = self.target.read(self.pack(ops), times).await;
        let Some(answer) = outcome(step, answered)? else { return Ok(()) };
        let decoded = decode(answer)?;
        check(decoded.len() == ops.len(), || format!("{} answers to {} reads", decoded.len(), ops.len()))?;
        for (index, op) in ops.iter().enumerate() {
            let wrong = |what: String| format!("{} [{index}]: {what}", op.op);
            if let Some(pages) = &op.expect_pages {
                self.pages(op, pages, times).await.map_err(wrong)?;
                continue;
            }
            let (kind, (_, state)) = (kind(&op.op), self.state(op.state.as_deref()));
            let got = decoded.answer(index);
            let (said, right) = answers::compare(kind, state, &got, answers::expected(op));
            check(right || op.expect.is_none(), || wrong(format!("{said}, expected {}", answers::expected(op))))?;
            if let Some(more) = op.more {
                check(got.more == more, || wrong(format!("more is {}", got.more)))?;
            }
            if let Some(deadline) = &op.expect_expires_at_ms {
                let expires = || wrong(format!("expires at {:?}, expected {deadline}", got.expires_at_ms));
                check(got.expires_at_ms == deadline.as_i64(), expires)?;
            }
            if let Some(name) = &op.remember {
                let version = got.version.ok_or_else(|| wrong("no version".into()))?;
                self.versions.insert(name.clone(), version);
            }
        }
        Ok(())
    }

    async fn pages(&mut self, op: &Op, pages: &[Value], times: Times) -> Result<(), String> {
        let (kind, state) = (kind(&op.op), self.state(op.state.as_deref()).1.clone());
        let mut wire = self.wire(op);
        for (number, page) in pages.iter().enumerate() {
            let answer = self.target.read(OwnedOp::pack(&[wire.clone()]), times).await.map_err(said)?;
            let decoded = decode(answer)?;
            let got = decoded.answer(0);
            let (said, right) = answers::compare(kind, &state, &got, page);
            check(right, || format!("page {number} is {said}, expected {page}"))?;
            let last = number + 1 == pages.len();
            check(got.more != last, || format!("page {number} says more: {}", got.more))?;
            if !last {
                answers::next_page(kind, &state, &got, &mut wire);
            }
        }
        Ok(())
    }

    fn check_verdicts(&self) -> Result<(), String> {
        for (index, op) in self.last.iter().enumerate() {
            let verdict = self.verdicts[index];
            check(op.swapped == verdict, || format!("{} [{index}]: swapped is {verdict:?}", op.op))?;
        }
        Ok(())
    }

    fn state(&self, name: Option<&str>) -> (u32, &Descriptor) {
        let index = name.map_or(0, |name| {
            self.states.iter().position(|state| state.name == name).unwrap_or_else(|| panic!("no state {name}"))
        });
        (u32::try_from(index).expect("few states") + 1, &self.states[index])
    }

    fn pack(&self, ops: &[Op]) -> v1::PackedOps {
        OwnedOp::pack(&ops.iter().map(|op| self.wire(op)).collect::<Vec<_>>())
    }

    fn wire(&self, op: &Op) -> OwnedOp {
        let (state_id, state) = self.state(op.state.as_deref());
        let bytes =
            |codec: &str, value: &Option<Value>| value.as_ref().map_or(Vec::new(), |value| encode(codec, value));
        let several =
            |codec: &str, values: &[Value]| packed_list::pack(values.iter().map(|value| encode(codec, value)));
        let keyed = state.kind != "sorted_set";
        let value = match op {
            Op { values: Some(values), .. } => several(&state.value, values),
            Op { sources: Some(sources), .. } => several(&state.namespace, sources),
            Op { by: Some(by), .. } => packed_list::pack([encode(&state.map_key, by), bytes(&state.value, &op.value)]),
            Op { expected: Some(expected), value: None, .. } => encode(&state.value, expected),
            Op { expected: Some(expected), .. } => {
                packed_list::cas_value(&encode(&state.value, expected), &bytes(&state.value, &op.value))
            }
            Op { to: Some(to), .. } => encode(&state.map_key, to),
            _ => bytes(&state.value, &op.value),
        };
        OwnedOp {
            kind: kind(&op.op),
            state_id,
            key: op
                .key
                .as_ref()
                .map_or_else(|| if keyed { b"k".to_vec() } else { Vec::new() }, |key| encode(&state.key, key)),
            namespace: bytes(&state.namespace, &op.namespace),
            map_key: bytes(&state.map_key, if op.from.is_some() { &op.from } else { &op.map_key }),
            value,
            key_group: op.key_group,
            expires_at_ms: op.expires_at_ms,
            version: op.version.as_ref().map(|version| match version.as_str() {
                Some(name) => *self.versions.get(name).unwrap_or_else(|| panic!("no version {name}")),
                None => version.as_u64().expect("a version is a number or a name"),
            }),
            limit: op.limit,
        }
    }
}

/// The answer, or `None` if the batch was refused as expected.
fn outcome(step: &Step, answered: Answered) -> Result<Option<v1::BatchAnswer>, String> {
    let Some(expected) = &step.refused else { return answered.map(Some).map_err(said) };
    let Err(refusal) = answered else { return Err(format!("it was not refused as {expected}")) };
    let reason = ErrorReason::from_name(expected).unwrap_or_else(|| panic!("no reason {expected}"));
    check(refusal.reason() == reason, || format!("refused, but {}", said(refusal.clone())))?;
    if let Some(op) = step.refused_op {
        let named = refusal.metadata.get("op");
        check(named == Some(&op.to_string()), || format!("refused for operation {named:?}, not {op}"))?;
    }
    Ok(None)
}

fn verdicts(ops: usize, answer: v1::BatchAnswer) -> Result<Vec<Option<bool>>, String> {
    let decoded = decode(answer)?;
    Ok((0..ops).map(|index| decoded.get(index).and_then(|answer| answer.verdict)).collect())
}

fn decode(answer: v1::BatchAnswer) -> Result<Answers, String> {
    Answers::decode(answer.answers.unwrap_or_default()).map_err(|error| error.to_string())
}

fn said(refusal: v1::Refusal) -> String {
    format!("{}: {}", refusal.reason().as_str_name(), refusal.message)
}

fn check(right: bool, wrong: impl FnOnce() -> String) -> Result<(), String> {
    if right { Ok(()) } else { Err(wrong()) }
}

fn kind(name: &str) -> OpKind {
    OpKind::from_str_name(&format!("OP_KIND_{}", name.to_uppercase())).unwrap_or_else(|| panic!("no operation {name}"))
}

impl Scenario {
    /// True if a target behind gRPC can play it.
    pub fn is_remote(&self) -> bool {
        !self.steps.iter().any(Step::is_inside)
    }

    /// The descriptors on the wire.
    pub fn descriptors(&self) -> Vec<v1::StateDescriptor> {
        self.states.iter().map(Descriptor::wire).collect()
    }

    /// Kinds of its states.
    pub fn kinds(&self) -> impl Iterator<Item = StateKind> {
        self.descriptors().into_iter().map(|descriptor| descriptor.kind())
    }
}
