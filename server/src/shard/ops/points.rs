//! Reads of single rows, many at once: an engine finds many keys faster together than one by one.

use forebay_proto::{packed::AnswersBuilder, reason::Refused, v1::OpKind};

use super::{Placed, Rows, address, check_bytes, expect_kind, reducing};
use crate::storage::row::Header;

/// Most rows that are looked up together: an engine holds all of them until the last is answered.
pub const TOGETHER_MAX: usize = 128;

/// Row keys in one arena.
#[derive(Debug, Default)]
struct Keys {
    arena: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.arena[start..*end])
    }
}

/// True if two operations next to each other are reads of single rows of one state.
pub fn together(one: &Placed<'_>, next: &Placed<'_>) -> bool {
    is_point(one.op.kind) && is_point(next.op.kind) && one.op.state_id == next.op.state_id
}

fn is_point(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::ValueGet | OpKind::MapGet | OpKind::MapContains | OpKind::ReducingGet | OpKind::AggregatingGet
    )
}

/// Reads a run of operations of which each two are [`together`]; a refusal tells the index of its operation.
pub fn read_together(
    run: &[Placed<'_>],
    rows: &Rows<'_>,
    row_key: &mut Vec<u8>,
    answers: &mut AnswersBuilder,
) -> Result<(), (usize, Refused)> {
    let Some(first) = run.first() else { return Ok(()) };
    let mut keys = Keys::default();
    for (index, placed) in run.iter().enumerate() {
        expect_kind(*placed).map_err(|refused| (index, refused))?;
        address(row_key, placed);
        keys.arena.extend_from_slice(row_key);
        keys.arena.extend_from_slice(placed.op.map_key);
        keys.ends.push(keys.arena.len());
    }
    let keys: Vec<_> = keys.iter().collect();
    rows.get_all(first.state, &keys, &mut |index, found| answer(&run[index], found, answers))
}

fn answer(placed: &Placed<'_>, found: Option<(Header, &[u8])>, answers: &mut AnswersBuilder) -> Result<(), Refused> {
    match (placed.op.kind, found) {
        (_, None) => answers.absent(),
        (OpKind::MapContains, Some(_)) => answers.value(&[], None, None),
        (OpKind::ReducingGet | OpKind::AggregatingGet, Some((header, payload))) => {
            reducing::answer(placed.state, &header, payload, answers);
        }
        (_, Some((header, payload))) => answers.value(payload, header.version, header.deadline_ms),
    }
    check_bytes(answers)
}
