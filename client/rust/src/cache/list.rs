//! Lists in the cache: what has been sent, and what is to be appended.

use bytes::Bytes;
use forebay_proto::{packed::Op, packed_list, v1::OpKind};

use super::{
    At, Cache, Reading,
    body::{Body, ITEM_BYTES},
};

/// Elements of one append together are about this long at most; longer lists take several operations.
const LIST_CHUNK_BYTES: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct List {
    sent: Option<Vec<Bytes>>,
    tail: Vec<Bytes>,
    /// Deadline of the tail's elements.
    deadline_ms: Option<i64>,
    /// True if the tail replaces what has been sent, which is then known to be empty.
    replaced: bool,
    sent_bytes: usize,
    tail_bytes: usize,
}

impl Cache {
    /// Returns the elements of a list; `None` if they are not known.
    pub fn list(&mut self, at: At<'_>) -> Option<impl Iterator<Item = &Bytes>> {
        match self.find(at)? {
            Body::List(list) => list.items(),
            _ => None,
        }
    }

    /// Appends to a list.
    pub fn list_append(&mut self, at: At<'_>, elements: impl IntoIterator<Item = Bytes>, now_ms: u64) {
        self.list_append_until(at, elements, None, now_ms);
    }

    /// Appends elements that have a deadline; it becomes that of all which are still unsent.
    pub fn list_append_until(
        &mut self,
        at: At<'_>,
        elements: impl IntoIterator<Item = Bytes>,
        deadline_ms: Option<i64>,
        now_ms: u64,
    ) {
        self.write(at, now_ms, empty, |body| {
            if let Body::List(list) = body {
                list.deadline_ms = deadline_ms;
                list.append(elements);
            }
        });
    }

    /// Replaces a list; an empty one is absent.
    pub fn list_put(&mut self, at: At<'_>, elements: impl IntoIterator<Item = Bytes>, now_ms: u64) {
        self.list_put_until(at, elements, None, now_ms);
    }

    /// Replaces a list by elements that have a deadline.
    pub fn list_put_until(
        &mut self,
        at: At<'_>,
        elements: impl IntoIterator<Item = Bytes>,
        deadline_ms: Option<i64>,
        now_ms: u64,
    ) {
        self.write(at, now_ms, empty, |body| {
            if let Body::List(list) = body {
                **list = List { sent: Some(Vec::new()), replaced: true, deadline_ms, ..List::default() };
                list.append(elements);
            }
        });
    }

    /// Begins a read of a list.
    pub fn read_list(&mut self, at: At<'_>) -> Reading {
        self.read(at, empty)
    }

    /// Ends a read of a list.
    pub fn fill_list(&mut self, reading: Reading, elements: Vec<Bytes>) {
        self.fill(reading, |body| {
            if let Body::List(list) = body {
                list.fill(elements);
            }
        });
    }
}

fn empty() -> Body {
    Body::List(Box::default())
}

impl List {
    fn items(&self) -> Option<impl Iterator<Item = &Bytes>> {
        Some(self.sent.as_ref()?.iter().chain(&self.tail))
    }

    fn append(&mut self, elements: impl IntoIterator<Item = Bytes>) {
        for element in elements {
            self.tail_bytes += ITEM_BYTES + element.len();
            self.tail.push(element);
        }
    }

    fn fill(&mut self, elements: Vec<Bytes>) {
        if self.sent.is_none() {
            self.sent_bytes = elements.iter().map(|element| ITEM_BYTES + element.len()).sum();
            self.sent = Some(elements);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.sent_bytes + self.tail_bytes
    }

    pub(super) fn unsent_bytes(&self) -> usize {
        self.tail_bytes
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.sent.is_none() && self.tail.is_empty()
    }

    pub(super) fn take_unsent(&mut self, at: Op<'_>, push: &mut impl FnMut(&Op<'_>)) {
        let mut replace = std::mem::take(&mut self.replaced);
        if replace && self.tail.is_empty() {
            push(&Op { kind: OpKind::ListClear, ..at });
        }
        let at = Op { expires_at_ms: self.deadline_ms, ..at };
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
