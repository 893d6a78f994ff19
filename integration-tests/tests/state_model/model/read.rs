//! What a read answers.

use forebay_integration_tests::conformance::OwnedOp;
use forebay_proto::{
    codec::{Codec as _, I64},
    v1::{OpKind, StateKind},
};

use super::{Cell, Item, Model, STATES, Spec};

/// Items, and what is said beside them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// The items.
    pub items: Vec<Vec<u8>>,
    /// There is more behind them.
    pub more: bool,
    /// The deadline of the one item.
    pub expires_at_ms: Option<i64>,
    /// The version of a value.
    pub version: Option<u64>,
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let items: Vec<_> = self.items.iter().map(|item| item.escape_ascii().to_string()).collect();
        let Self { more, expires_at_ms, version, .. } = self;
        write!(f, "[{}] more {more}, expires at {expires_at_ms:?}, version {version:?}", items.join(", "))
    }
}

impl Model {
    /// Answers a read.
    pub fn read(&self, op: &OwnedOp) -> Answer {
        let empty = Cell::default();
        let cell = self.stored.cells.get(&Self::place(op)).unwrap_or(&empty);
        let alive = |item: &&Item| self.alive(op.state_id, item);
        let entries = || {
            let inside = |key: &Vec<u8>| *key >= op.map_key && (op.value.is_empty() || *key < op.value);
            let here = cell.map.iter().filter(move |(key, item)| inside(key) && alive(item));
            here.map(|(key, item)| (key.clone(), item.payload.clone()))
        };
        let list = |items: Option<&Vec<Item>>| {
            items.into_iter().flatten().filter(alive).map(|item| vec![item.payload.clone()]).collect()
        };
        match op.kind {
            OpKind::ValueGet => one(cell.one.as_ref().filter(alive), |item| Some(item.payload.clone())),
            OpKind::ReducingGet | OpKind::AggregatingGet => {
                let function = Spec::of(op.state_id).merge().expect("a function");
                one(cell.one.as_ref().filter(alive), |item| function.result(&item.payload))
            }
            OpKind::MapGet => one(cell.map.get(&op.map_key).filter(alive), |item| Some(item.payload.clone())),
            OpKind::MapContains => {
                let there = cell.map.get(&op.map_key).filter(alive).map(|_| Vec::new());
                Answer { items: there.into_iter().collect(), ..Answer::default() }
            }
            OpKind::ListGet => page(list(Some(&cell.list)), op.limit),
            OpKind::MultimapGet => page(list(cell.lists.get(&op.map_key)), op.limit),
            OpKind::MapEntries => page(entries().map(|(key, value)| vec![key, value]).collect(), op.limit),
            OpKind::MapKeys | OpKind::SortedSetFirst => page(entries().map(|(key, _)| vec![key]).collect(), op.limit),
            OpKind::MultimapKeys => {
                let inside = |key: &Vec<u8>| *key >= op.map_key && (op.value.is_empty() || *key < op.value);
                let here =
                    cell.lists.iter().filter(|(key, items)| inside(key) && items.iter().any(|item| alive(&item)));
                page(here.map(|(key, _)| vec![key.clone()]).collect(), op.limit)
            }
            OpKind::SortedSetCount => {
                let count = i64::try_from(entries().count()).expect("few");
                Answer { items: vec![I64::to_bytes(&count).expect("a number")], ..Answer::default() }
            }
            other => panic!("{other:?} is no read"),
        }
    }

    /// Reads of everything there can be.
    pub fn whole() -> Vec<OwnedOp> {
        let mut ops = Vec::new();
        for id in 1..=u32::try_from(STATES.len()).expect("few states") {
            let op = |kind| OwnedOp { kind, state_id: id, ..OwnedOp::default() };
            let kind = match Spec::of(id).kind {
                StateKind::Value => OpKind::ValueGet,
                StateKind::List => OpKind::ListGet,
                StateKind::Map => OpKind::MapEntries,
                StateKind::Reducing => OpKind::ReducingGet,
                StateKind::Aggregating => OpKind::AggregatingGet,
                StateKind::Multimap => OpKind::MultimapKeys,
                StateKind::SortedSet => {
                    let groups = super::generate::GROUPS.into_iter();
                    ops.extend(groups.map(|group| OwnedOp { key_group: Some(group), ..op(OpKind::SortedSetFirst) }));
                    continue;
                }
                StateKind::Unspecified => continue,
            };
            for key in super::generate::KEYS {
                for namespace in super::generate::NAMESPACES {
                    let at = |op| OwnedOp { key: key.to_vec(), namespace: namespace.to_vec(), ..op };
                    ops.push(at(op(kind)));
                    if kind == OpKind::MultimapKeys {
                        let entry =
                            |map_key: &&[u8]| at(OwnedOp { map_key: map_key.to_vec(), ..op(OpKind::MultimapGet) });
                        ops.extend(super::generate::MAP_KEYS.iter().map(entry));
                    }
                }
            }
        }
        ops
    }
}

fn one(item: Option<&Item>, payload: impl Fn(&Item) -> Option<Vec<u8>>) -> Answer {
    let Some((item, payload)) = item.and_then(|item| Some((item, payload(item)?))) else { return Answer::default() };
    Answer {
        items: vec![payload],
        more: false,
        expires_at_ms: item.deadline_ms,
        version: Some(item.version).filter(|version| *version != 0),
    }
}

fn page(mut rows: Vec<Vec<Vec<u8>>>, limit: u32) -> Answer {
    let most = if limit == 0 { usize::MAX } else { limit as usize };
    let more = rows.len() > most;
    rows.truncate(most);
    Answer { items: rows.concat(), more, ..Answer::default() }
}
