//! What the cache knows of one address, by the kind of its state.

use std::collections::BTreeMap;

use bytes::Bytes;
use forebay_proto::{merge::MergeFunction, packed::Op, packed_list, v1::OpKind};

/// Bytes that an element or entry takes beside its content, roughly.
const ITEM_BYTES: usize = 48;
/// Elements of one append together are about this long at most; longer lists take several operations.
const LIST_CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub(super) enum Body {
    Value(Value),
    List(List),
    Map(Map),
    Reducing(Reducing),
}

/// A value.
#[derive(Debug, Default)]
pub(super) struct Value {
    /// `Some(None)`: it is known to be absent.
    pub(super) known: Option<Option<Bytes>>,
    pub(super) unsent: bool,
}

/// A list: what has been sent, and what is to be appended.
#[derive(Debug, Default)]
pub(super) struct List {
    sent: Option<Vec<Bytes>>,
    tail: Vec<Bytes>,
    /// True if the tail replaces what has been sent, which is then known to be empty.
    replaced: bool,
    sent_bytes: usize,
    tail_bytes: usize,
}

/// A map.
#[derive(Debug, Default)]
pub(super) struct Map {
    cells: BTreeMap<Bytes, Cell>,
    /// True if a map key without a cell is known to be absent.
    complete: bool,
    /// True if a clear is to be sent before the cells.
    cleared: bool,
    bytes: usize,
    unsent_bytes: usize,
}

#[derive(Debug)]
struct Cell {
    value: Option<Bytes>,
    unsent: bool,
}

/// A reducing state: what has been sent, and what is to be added.
#[derive(Debug)]
pub(super) struct Reducing {
    function: MergeFunction,
    /// `Some(None)`: it is known to be absent.
    sent: Option<Option<Vec<u8>>>,
    /// One at most if the function is associative.
    operands: Vec<Vec<u8>>,
    /// True if a clear is to be sent before the operands.
    cleared: bool,
    spare: Vec<u8>,
}

impl Body {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Value(value) => value.known.as_ref().map_or(0, |known| known.as_ref().map_or(0, Bytes::len)),
            Self::List(list) => list.sent_bytes + list.tail_bytes,
            Self::Map(map) => map.bytes,
            Self::Reducing(reducing) => ITEM_BYTES * reducing.operands.len(),
        }
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        match self {
            Self::Value(value) if value.unsent => ITEM_BYTES + self.bytes(),
            Self::Value(_) => 0,
            Self::List(list) => list.tail_bytes,
            Self::Map(map) => map.unsent_bytes,
            Self::Reducing(reducing) => ITEM_BYTES * reducing.operands.len(),
        }
    }

    /// True if nothing is known and nothing is to be sent.
    pub(super) fn is_unknown(&self) -> bool {
        match self {
            Self::Value(value) => value.known.is_none(),
            Self::List(list) => list.sent.is_none() && list.tail.is_empty(),
            Self::Map(map) => map.cells.is_empty() && !map.complete,
            Self::Reducing(reducing) => reducing.sent.is_none() && reducing.operands.is_empty(),
        }
    }

    /// Gives what is to be sent to `push`, in order, and counts it as sent. `at` is the address.
    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        match self {
            Self::Value(value) => value.take_unsent(at, push),
            Self::List(list) => list.take_unsent(at, push),
            Self::Map(map) => map.take_unsent(at, push),
            Self::Reducing(reducing) => reducing.take_unsent(at, push),
        }
    }
}

impl Value {
    fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        if !std::mem::take(&mut self.unsent) {
            return;
        }
        match self.known.as_ref().and_then(Option::as_ref) {
            Some(value) => push(&Op { kind: OpKind::ValuePut, value, ..at }),
            None => push(&Op { kind: OpKind::ValueClear, ..at }),
        }
    }
}

impl List {
    pub(super) fn items(&self) -> Option<impl Iterator<Item = &Bytes>> {
        Some(self.sent.as_ref()?.iter().chain(&self.tail))
    }

    pub(super) fn append(&mut self, elements: impl IntoIterator<Item = Bytes>) {
        for element in elements {
            self.tail_bytes += ITEM_BYTES + element.len();
            self.tail.push(element);
        }
    }

    pub(super) fn replace(&mut self, elements: impl IntoIterator<Item = Bytes>) {
        *self = Self { sent: Some(Vec::new()), replaced: true, ..Self::default() };
        self.append(elements);
    }

    pub(super) fn fill(&mut self, elements: Vec<Bytes>) {
        if self.sent.is_none() {
            self.sent_bytes = elements.iter().map(|element| ITEM_BYTES + element.len()).sum();
            self.sent = Some(elements);
        }
    }

    fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        let mut replace = std::mem::take(&mut self.replaced);
        if replace && self.tail.is_empty() {
            push(&Op { kind: OpKind::ListClear, ..at });
        }
        let mut rest = self.tail.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |element: &&Bytes| {
                bytes += element.len();
                bytes <= LIST_CHUNK_BYTES
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (chunk, later) = rest.split_at(count);
            match (std::mem::take(&mut replace), chunk) {
                (false, [element]) => push(&Op { kind: OpKind::ListAppend, value: element, ..at }),
                (replace, chunk) => {
                    let kind = if replace { OpKind::ListPut } else { OpKind::ListAppendAll };
                    push(&Op { kind, value: &packed_list::pack(chunk), ..at });
                }
            }
            rest = later;
        }
        let (tail, tail_bytes) = (std::mem::take(&mut self.tail), std::mem::take(&mut self.tail_bytes));
        if let Some(sent) = &mut self.sent {
            sent.extend(tail);
            self.sent_bytes += tail_bytes;
        }
    }
}

impl Map {
    pub(super) fn entry(&self, map_key: &[u8]) -> Option<Option<&Bytes>> {
        match self.cells.get(map_key) {
            Some(cell) => Some(cell.value.as_ref()),
            None => self.complete.then_some(None),
        }
    }

    pub(super) fn entries(&self) -> Option<impl Iterator<Item = (&Bytes, &Bytes)>> {
        let values = self.cells.iter().filter_map(|(map_key, cell)| Some((map_key, cell.value.as_ref()?)));
        self.complete.then_some(values)
    }

    pub(super) fn put(&mut self, map_key: Bytes, value: Option<Bytes>) {
        self.unsent_bytes += cell_bytes(&map_key, value.as_ref());
        self.set(map_key, Cell { value, unsent: true });
    }

    pub(super) fn clear(&mut self) {
        *self = Self { complete: true, cleared: true, unsent_bytes: ITEM_BYTES, ..Self::default() };
    }

    pub(super) fn fill_entry(&mut self, map_key: Bytes, value: Option<Bytes>) {
        if self.entry(&map_key).is_none() {
            self.set(map_key, Cell { value, unsent: false });
        }
    }

    pub(super) fn fill(&mut self, entries: BTreeMap<Bytes, Bytes>) {
        for (map_key, value) in entries {
            self.fill_entry(map_key, Some(value));
        }
        self.complete = true;
    }

    fn set(&mut self, map_key: Bytes, cell: Cell) {
        self.bytes += cell_bytes(&map_key, cell.value.as_ref());
        if let Some(former) = self.cells.insert(map_key.clone(), cell) {
            self.bytes -= cell_bytes(&map_key, former.value.as_ref());
        }
    }

    fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        let cleared = std::mem::take(&mut self.cleared);
        if cleared {
            push(&Op { kind: OpKind::MapClear, ..at });
        }
        for (map_key, cell) in &mut self.cells {
            match (std::mem::take(&mut cell.unsent), &cell.value) {
                (true, Some(value)) => push(&Op { kind: OpKind::MapPut, map_key, value, ..at }),
                (true, None) if !cleared => push(&Op { kind: OpKind::MapRemove, map_key, ..at }),
                _ => {}
            }
        }
        self.unsent_bytes = 0;
        if self.complete {
            let bytes = &mut self.bytes;
            self.cells.retain(|map_key, cell| {
                if cell.value.is_none() {
                    *bytes -= cell_bytes(map_key, None);
                }
                cell.value.is_some()
            });
        }
    }
}

fn cell_bytes(map_key: &Bytes, value: Option<&Bytes>) -> usize {
    2 * ITEM_BYTES + map_key.len() + value.map_or(0, Bytes::len)
}

impl Reducing {
    pub(super) fn new(function: MergeFunction) -> Self {
        Self { function, sent: None, operands: Vec::new(), cleared: false, spare: Vec::new() }
    }

    pub(super) fn view(&self) -> Option<Option<Vec<u8>>> {
        let mut accumulator = self.sent.as_ref()?.clone();
        for operand in &self.operands {
            let mut out = Vec::with_capacity(8);
            self.function.fold(accumulator.as_deref(), operand, &mut out);
            accumulator = Some(out);
        }
        Some(accumulator)
    }

    pub(super) fn add(&mut self, operand: &[u8]) {
        match self.operands.last_mut() {
            Some(last) if self.function.associative() => {
                self.spare.clear();
                self.function.fold(Some(last), operand, &mut self.spare);
                std::mem::swap(last, &mut self.spare);
            }
            _ => self.operands.push(operand.to_vec()),
        }
    }

    pub(super) fn clear(&mut self) {
        self.sent = Some(None);
        self.operands.clear();
        self.cleared = true;
    }

    pub(super) fn fill(&mut self, accumulator: Option<Bytes>) {
        self.sent.get_or_insert(accumulator.map(Vec::from));
    }

    fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        if std::mem::take(&mut self.cleared) {
            push(&Op { kind: OpKind::ReducingClear, ..at });
        }
        for operand in &self.operands {
            push(&Op { kind: OpKind::ReducingAdd, value: operand, ..at });
        }
        self.sent = self.view();
        self.operands.clear();
    }
}
