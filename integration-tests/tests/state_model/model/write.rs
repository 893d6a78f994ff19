//! What a write does.

use std::ops::Bound;

use forebay_integration_tests::conformance::OwnedOp;
use forebay_proto::{
    packed_list,
    v1::{OpKind, StateKind},
};

use super::{Cell, Item, Model, Place, Spec};

impl Model {
    /// Applies a write and returns the verdict of a compare-and-set.
    pub(super) fn write(&mut self, op: &OwnedOp) -> Option<bool> {
        let place = Self::place(op);
        let fresh = self.fresh(op, op.value.clone());
        if let Some(verdict) = self.compare(op, &place) {
            if verdict && matches!(op.kind, OpKind::ValueCasClear | OpKind::ValueCasVersionClear) {
                self.cell(&place).one = None;
            } else if verdict {
                let value = match op.kind {
                    OpKind::ValueCas => packed_list::split_cas(&op.value).expect("a pair").1.to_vec(),
                    _ => op.value.clone(),
                };
                self.put_value(&place, Item { payload: value, ..fresh });
            }
            return Some(verdict);
        }
        let several =
            || packed_list::iter(&op.value).map(|payload| Item { payload: payload.to_vec(), ..fresh.clone() });
        match op.kind {
            OpKind::ValuePut => self.put_value(&place, fresh),
            OpKind::ValueClear | OpKind::ReducingClear | OpKind::AggregatingClear => self.cell(&place).one = None,
            OpKind::ListAppend => self.cell(&place).list.push(fresh),
            OpKind::ListAppendAll => self.cell(&place).list.extend(several()),
            OpKind::ListPut => self.cell(&place).list = several().collect(),
            OpKind::ListClear | OpKind::MapClear | OpKind::MultimapClear => *self.cell(&place) = Cell::default(),
            OpKind::MapPut | OpKind::SortedSetAdd => {
                self.cell(&place).map.insert(op.map_key.clone(), fresh);
            }
            OpKind::MapRemove | OpKind::SortedSetRemove => {
                self.cell(&place).map.remove(&op.map_key);
            }
            OpKind::MapClearRange => {
                let inside = |key: &Vec<u8>| *key >= op.map_key && (op.value.is_empty() || *key < op.value);
                self.cell(&place).map.retain(|key, _| !inside(key));
            }
            OpKind::MultimapAppend => self.cell(&place).lists.entry(op.map_key.clone()).or_default().push(fresh),
            OpKind::MultimapRemove => {
                self.cell(&place).lists.remove(&op.map_key);
            }
            OpKind::ReducingAdd | OpKind::AggregatingAdd => self.add(op.state_id, &place, fresh),
            OpKind::MergeNamespaces => self.merge(op, &place),
            OpKind::Touch => self.touch(op, &place),
            other => panic!("{other:?} is no write"),
        }
        None
    }

    fn cell(&mut self, place: &Place) -> &mut Cell {
        self.stored.cells.entry(place.clone()).or_default()
    }

    fn fresh(&self, op: &OwnedOp, payload: Vec<u8>) -> Item {
        let now_ms = self.now_ms(op.state_id);
        let by_ttl = now_ms.and_then(|now_ms| Some(now_ms + self.ttl_ms(op.state_id)?));
        Item { payload, write_ms: now_ms.unwrap_or(i64::MIN), deadline_ms: op.expires_at_ms.or(by_ttl), version: 0 }
    }

    fn put_value(&mut self, place: &Place, item: Item) {
        self.stored.writes += 1;
        let version = self.stored.writes;
        self.cell(place).one = Some(Item { version, ..item });
    }

    fn compare(&self, op: &OwnedOp, place: &Place) -> Option<bool> {
        let present = self.stored.cells.get(place).and_then(|cell| cell.one.as_ref());
        let present = present.filter(|item| self.alive(op.state_id, item));
        let value = present.map(|item| &item.payload[..]);
        match op.kind {
            OpKind::ValueCas => Some(value == Some(packed_list::split_cas(&op.value).expect("a pair").0)),
            OpKind::ValueCasClear => Some(value == Some(&op.value[..])),
            OpKind::ValueCasVersion | OpKind::ValueCasVersionClear => {
                Some(present.map_or(0, |item| item.version) == op.version.expect("a version"))
            }
            _ => None,
        }
    }

    fn add(&mut self, id: u32, place: &Place, operand: Item) {
        let function = Spec::of(id).merge().expect("a function");
        let cell = self.cell(place);
        let kept = cell.one.take().filter(|item| item.deadline_ms.is_none_or(|deadline| deadline > operand.write_ms));
        let mut payload = Vec::new();
        function.fold(kept.as_ref().map(|item| &item.payload[..]), &operand.payload, &mut payload);
        cell.one = Some(Item { payload, ..operand });
    }

    fn merge(&mut self, op: &OwnedOp, target: &Place) {
        let id = op.state_id;
        for namespace in packed_list::iter(&op.value) {
            let source = (id, op.key.clone(), namespace.to_vec());
            if source == *target {
                continue;
            }
            let from = self.stored.cells.remove(&source).unwrap_or_default();
            let moved: Vec<Item> = from.list.into_iter().filter(|item| self.alive(id, item)).collect();
            self.cell(target).list.extend(moved);
            let Some(right) = from.one.filter(|item| self.alive(id, item)) else { continue };
            let left = self.cell(target).one.take().filter(|item| self.alive(id, item));
            let payload = left.map_or(right.payload.clone(), |left| {
                let mut both = Vec::new();
                Spec::of(id).merge().expect("a function").merge(&left.payload, &right.payload, &mut both);
                both
            });
            self.cell(target).one = Some(Item { payload, ..right });
        }
    }

    fn touch(&mut self, op: &OwnedOp, place: &Place) {
        let (fresh, model) = (self.fresh(op, Vec::new()), self.clone());
        let renew = |item: &mut Item| {
            if model.alive(op.state_id, item) {
                (item.write_ms, item.deadline_ms) = (fresh.write_ms, fresh.deadline_ms);
            }
        };
        let one_entry = !op.map_key.is_empty()
            && matches!(Spec::of(op.state_id).kind, StateKind::Map | StateKind::SortedSet | StateKind::Multimap);
        let entries = if one_entry {
            (Bound::Included(op.map_key.clone()), Bound::Included(op.map_key.clone()))
        } else {
            (Bound::Unbounded, Bound::Unbounded)
        };
        let cell = self.cell(place);
        cell.one.iter_mut().for_each(renew);
        cell.list.iter_mut().for_each(renew);
        cell.map.range_mut(entries.clone()).for_each(|(_, item)| renew(item));
        cell.lists.range_mut(entries).for_each(|(_, items)| items.iter_mut().for_each(renew));
    }
}
