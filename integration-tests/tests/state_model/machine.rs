//! The real shard beside the model: after every step everything it answers is the same.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use forebay_integration_tests::conformance::{Kind, OwnedOp, Saved, Shard};
use forebay_proto::{
    packed::Answers,
    v1::{ErrorReason, OpKind, PackedOps, StateKind},
};
use proptest_state_machine::ReferenceStateMachine as _;

use crate::model::{Answer, Model, STATES, Spec, Step};

/// Takes the steps one after the other, counting them in `seen`, by which a sequence is cut behind the step
/// that failed; an error says which ended otherwise than it should.
pub fn replay(kind: Kind, steps: &[Step], seen: Option<&AtomicUsize>) -> Result<(), String> {
    let mut model = Model::default();
    let descriptors: Vec<_> = (1..).zip(STATES).map(|(id, state)| state.descriptor(id, model.ttl_ms(id))).collect();
    let mut machine = Machine { shard: Shard::new(kind, &descriptors), kind, saved: None };
    for (index, step) in steps.iter().enumerate() {
        if let Some(seen) = seen {
            seen.fetch_add(1, Ordering::SeqCst);
        }
        model = Model::apply(model, step);
        let done = machine.step(&model, step).and_then(|()| machine.compare(&model, &Model::whole()));
        done.map_err(|wrong| format!("{kind:?}, after step {index}: {wrong}"))?;
    }
    Ok(())
}

/// The steps as somebody would write them down.
pub fn show(steps: &[Step]) -> String {
    steps.iter().enumerate().fold(String::new(), |mut text, (index, step)| {
        let _ = match step {
            Step::Write(ops) | Step::Read(ops) => {
                let name = if matches!(step, Step::Write(_)) { "write" } else { "read" };
                let ops: Vec<_> = ops.iter().map(|op| format!("{op:?}")).collect();
                writeln!(text, "{index:>3} {name} {}", ops.join("\n          "))
            }
            step => writeln!(text, "{index:>3} {step:?}"),
        };
        text
    })
}

struct Machine {
    shard: Shard,
    kind: Kind,
    saved: Option<Saved>,
}

impl Machine {
    fn step(&mut self, model: &Model, step: &Step) -> Result<(), String> {
        match step {
            Step::Write(ops) => self.write(model, OwnedOp::pack(ops), ops.len(), None)?,
            Step::Watermark(ms) => self.write(model, PackedOps::default(), 0, Some(*ms))?,
            Step::Read(ops) => self.compare(model, ops)?,
            Step::Advance(ms) => self.shard.advance(*ms),
            Step::WriterAdvance(_) => {}
            Step::Compact => self.shard.compact(),
            Step::CleanUp => self.clean_up(model)?,
            Step::Resend(back) => self.resend(model, *back)?,
            Step::WrongNumbers => self.wrong_numbers(model)?,
            Step::Snapshot => self.saved = Some(self.shard.snapshot()),
            Step::Restore => self.shard.restore(self.saved.as_ref().ok_or("nothing was saved")?),
            Step::Reopen => self.shard.reopen(),
            Step::Ttl(id, ttl_ms) => self.shard.describe(Spec::of(*id).descriptor(*id, *ttl_ms)),
        }
        Ok(())
    }

    fn write(&mut self, model: &Model, ops: PackedOps, count: usize, watermark_ms: Option<i64>) -> Result<(), String> {
        let mut times = model.times();
        times.watermark_ms = watermark_ms;
        let answer = self.shard.write(ops, times).map_err(|refusal| refusal.message)?;
        let got = verdicts(answer.answers.unwrap_or_default(), count)?;
        let expected = model.sent.last().cloned().unwrap_or_default();
        same("verdicts", &got, &expected)
    }

    fn resend(&mut self, model: &Model, back: usize) -> Result<(), String> {
        let expected = &model.sent[model.sent.len() - 1 - back];
        let answer = self.shard.resend(back).map_err(|refusal| refusal.message)?;
        same("duplicate", &answer.duplicate, &true)?;
        same("verdicts of a duplicate", &verdicts(answer.answers.unwrap_or_default(), expected.len())?, expected)
    }

    fn wrong_numbers(&mut self, model: &Model) -> Result<(), String> {
        let op = OwnedOp {
            kind: OpKind::ValuePut,
            state_id: 1,
            key: b"never".to_vec(),
            value: b"never".to_vec(),
            ..OwnedOp::default()
        };
        let gap = self.shard.write_as(self.shard.mark() + 2, OwnedOp::pack(&[op]), model.times());
        same("a gap", &gap.map_err(|refusal| refusal.reason()).map(drop), &Err(ErrorReason::NotCaughtUp))
    }

    /// Compares what reads answer.
    fn compare(&mut self, model: &Model, ops: &[OwnedOp]) -> Result<(), String> {
        let answer = self.shard.read(OwnedOp::pack(ops), model.times()).map_err(|refusal| refusal.message)?;
        let answers = Answers::decode(answer.answers.unwrap_or_default()).map_err(|error| error.to_string())?;
        for (op, got) in ops.iter().zip(answers.iter()) {
            let counts = matches!(op.kind, OpKind::ListGet | OpKind::MultimapGet);
            let got = Answer {
                items: got.items().map(|item| item.to_vec()).collect(),
                more: got.more,
                expires_at_ms: got.expires_at_ms,
                // The number of a page's last element is the shard's own.
                version: got.version.filter(|_| !counts),
            };
            same(&format!("{op:?}"), &got, &model.read(op))?;
        }
        Ok(())
    }

    /// Cleans up, and looks that nothing is left but what lives.
    fn clean_up(&mut self, model: &Model) -> Result<(), String> {
        self.shard.clean_up(model.times());
        for (id, state) in (1..).zip(STATES) {
            let folds = matches!(state.kind, StateKind::Reducing | StateKind::Aggregating);
            // Where there is no TTL there is no sweep: rows with a deadline of their own wait for a compaction.
            let swept = model.ttl_ms(id).is_some() || (self.kind == Kind::Rocks && !folds);
            let rows = self.shard.rows(id);
            if rows < model.rows(id) || (swept && rows > model.rows(id)) {
                return Err(format!("state {id} has {rows} rows after the clean-up, {} live", model.rows(id)));
            }
        }
        Ok(())
    }
}

fn verdicts(answers: forebay_proto::v1::PackedAnswers, count: usize) -> Result<Vec<Option<bool>>, String> {
    let answers = Answers::decode(answers).map_err(|error| error.to_string())?;
    Ok((0..count).map(|index| answers.get(index).and_then(|answer| answer.verdict)).collect())
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: &T, expected: &T) -> Result<(), String> {
    if got == expected { Ok(()) } else { Err(format!("{what}\n    got      {got:?}\n    expected {expected:?}")) }
}
