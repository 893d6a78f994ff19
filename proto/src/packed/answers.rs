//! The answers of a batch: building the columns, checking them, handing out slices.

use bytes::Bytes;

use super::{Error, check_column, deadline, entry, len_u32, read_deadline, trim};
use crate::v1::PackedAnswers;

/// Puts answers into columns, one per operation in their order.
#[derive(Debug, Default)]
pub struct AnswersBuilder {
    arena: Vec<u8>,
    verdicts: Vec<u8>,
    more: Vec<u8>,
    columns: PackedAnswers,
}

impl AnswersBuilder {
    /// Makes an empty list of answers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers a write, which says nothing.
    pub fn none(&mut self) {
        self.begin_items();
    }

    /// Answers that nothing is stored.
    pub fn absent(&mut self) {
        self.begin_items();
    }

    /// Answers a value, with its version and deadline.
    pub fn value(&mut self, value: &[u8], version: Option<u64>, expires_at_ms: Option<i64>) {
        self.begin_items();
        self.push_item(value);
        if let Some(last) = self.columns.versions.last_mut() {
            *last = version.map_or(0, |version| version.saturating_add(1));
        }
        if let Some(last) = self.columns.expires_at_ms.last_mut() {
            *last = deadline(expires_at_ms);
        }
    }

    /// Answers elements, map keys, or map keys and values in turn.
    pub fn items<I: AsRef<[u8]>>(&mut self, items: impl IntoIterator<Item = I>) {
        self.begin_items();
        for item in items {
            self.push_item(item.as_ref());
        }
        self.end_items();
    }

    /// Starts an answer of several items.
    pub fn begin_items(&mut self) {
        self.columns.counts.push(0);
        self.columns.versions.push(0);
        self.columns.expires_at_ms.push(0);
        self.verdicts.push(0);
        self.more.push(0);
    }

    /// Says that there is more behind the items of the answer that was started last.
    pub fn more(&mut self) {
        if let Some(last) = self.more.last_mut() {
            *last = 1;
        }
    }

    /// Says the number of the last list element of the answer that was started last.
    pub fn last_number(&mut self, number: u64) {
        if let Some(last) = self.columns.versions.last_mut() {
            *last = number.saturating_add(1);
        }
    }

    /// Adds an item to the answer that was started last.
    ///
    /// # Panics
    /// If no answer was started, or the item is 4 GiB or longer.
    pub fn push_item(&mut self, item: &[u8]) {
        *self.columns.counts.last_mut().expect("begin_items comes first") += 1;
        self.columns.lens.push(len_u32(item));
        self.arena.extend_from_slice(item);
    }

    /// Ends an answer of several items. Reads better than nothing; the next answer would end it, too.
    pub fn end_items(&mut self) {}

    /// Answers a compare-and-set.
    pub fn verdict(&mut self, swapped: bool) {
        self.begin_items();
        if let Some(last) = self.verdicts.last_mut() {
            *last = if swapped { 1 } else { 2 };
        }
    }

    /// Returns the number of answers.
    pub fn len(&self) -> usize {
        self.columns.counts.len()
    }

    /// Returns true if there is no answer yet.
    pub fn is_empty(&self) -> bool {
        self.columns.counts.is_empty()
    }

    /// Returns the bytes of all items.
    pub fn bytes(&self) -> usize {
        self.arena.len()
    }

    /// Returns the answers. `counts` stays whole, as it tells how many there are.
    pub fn finish(self) -> PackedAnswers {
        PackedAnswers {
            arena: self.arena.into(),
            counts: self.columns.counts,
            lens: self.columns.lens,
            expires_at_ms: trim(self.columns.expires_at_ms),
            versions: trim(self.columns.versions),
            verdicts: trim(self.verdicts).into(),
            more: trim(self.more).into(),
        }
    }
}

/// The answers of a batch whose columns fit each other.
#[derive(Debug, Clone)]
pub struct Answers {
    packed: PackedAnswers,
    /// Per answer, where its items start: index of the length, offset in the arena. One more closes the list.
    starts: Vec<(usize, usize)>,
}

impl Answers {
    /// Checks the columns, once and as a whole.
    pub fn decode(packed: PackedAnswers) -> Result<Self, Error> {
        let len = packed.counts.len();
        check_column("expires_at_ms", &packed.expires_at_ms, len)?;
        check_column("versions", &packed.versions, len)?;
        check_column("verdicts", &packed.verdicts, len)?;
        check_column("more", &packed.more, len)?;
        let items = packed.counts.iter().map(|count| u64::from(*count)).sum::<u64>();
        if items != packed.lens.len() as u64 {
            // Never empty for short: a few counts would stand for billions of empty items.
            return Err(Error::Column { column: "lens", got: packed.lens.len(), expected: items });
        }
        let expected = packed.lens.iter().map(|len| u64::from(*len)).sum::<u64>();
        if expected != packed.arena.len() as u64 {
            return Err(Error::Arena { got: packed.arena.len(), expected });
        }
        if let Some((index, &got)) = packed.verdicts.iter().enumerate().find(|(_, verdict)| **verdict > 2) {
            return Err(Error::Verdict { index, got });
        }
        let mut starts = Vec::with_capacity(len + 1);
        let (mut item, mut offset) = (0, 0);
        starts.push((item, offset));
        for count in &packed.counts {
            let next = item + *count as usize;
            offset += packed.lens[item..next].iter().map(|len| *len as usize).sum::<usize>();
            item = next;
            starts.push((item, offset));
        }
        Ok(Self { packed, starts })
    }

    /// Returns the number of answers.
    pub fn len(&self) -> usize {
        self.packed.counts.len()
    }

    /// Returns true if there is no answer.
    pub fn is_empty(&self) -> bool {
        self.packed.counts.is_empty()
    }

    /// Returns the answer to the operation of that index; `None` if there are fewer.
    pub fn get(&self, index: usize) -> Option<AnswerRef<'_>> {
        let (&(first, offset), &(end, _)) = (self.starts.get(index)?, self.starts.get(index + 1)?);
        Some(AnswerRef {
            arena: &self.packed.arena,
            lens: &self.packed.lens[first..end],
            offset,
            version: entry(&self.packed.versions, index).checked_sub(1),
            expires_at_ms: read_deadline(entry(&self.packed.expires_at_ms, index)),
            verdict: match entry(&self.packed.verdicts, index) {
                0 => None,
                verdict => Some(verdict == 1),
            },
            more: entry(&self.packed.more, index) != 0,
        })
    }

    /// Returns the answer to the operation of that index.
    ///
    /// # Panics
    /// If there are fewer answers; compare [`Answers::len`] with the operations sent first.
    pub fn answer(&self, index: usize) -> AnswerRef<'_> {
        self.get(index).expect("an answer per operation")
    }

    /// Returns the answers in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = AnswerRef<'_>> {
        (0..self.len()).map(|index| self.answer(index))
    }
}

/// The answer to one operation.
#[derive(Debug, Clone, Copy)]
pub struct AnswerRef<'a> {
    arena: &'a Bytes,
    lens: &'a [u32],
    offset: usize,
    /// Version of the value, or number of a page's last list element.
    pub version: Option<u64>,
    /// Deadline, in milliseconds of the state's clock.
    pub expires_at_ms: Option<i64>,
    /// Of a compare-and-set: true if it swapped.
    pub verdict: Option<bool>,
    /// True if there is more behind the items.
    pub more: bool,
}

impl<'a> AnswerRef<'a> {
    /// Returns the number of items; 0 is absent.
    pub fn len(&self) -> usize {
        self.lens.len()
    }

    /// Returns true if nothing is stored, or the operation was a write.
    pub fn is_empty(&self) -> bool {
        self.lens.is_empty()
    }

    /// Returns the items; they share the answer's buffer, and keep it as long as they live.
    pub fn items(&self) -> impl ExactSizeIterator<Item = Bytes> + use<'a> {
        let (arena, mut offset) = (self.arena, self.offset);
        self.lens.iter().map(move |len| {
            let start = offset;
            offset += *len as usize;
            arena.slice(start..offset)
        })
    }

    /// Returns the value; `None` is absent.
    pub fn value(&self) -> Option<Bytes> {
        self.items().next()
    }

    /// Returns map keys with their values; a last map key without a value is left out.
    pub fn entries(&self) -> impl Iterator<Item = (Bytes, Bytes)> + use<'a> {
        let mut items = self.items();
        std::iter::from_fn(move || items.next().zip(items.next()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn answers() -> PackedAnswers {
        let mut answers = AnswersBuilder::new();
        answers.absent();
        answers.value(b"", Some(0), None);
        answers.value(b"value", Some(7), Some(1_000));
        answers.items(["k1", "v1", "k2", ""]);
        answers.last_number(41);
        answers.more();
        answers.verdict(true);
        answers.verdict(false);
        answers.none();
        assert_eq!((answers.len(), answers.bytes()), (7, 11));
        answers.finish()
    }

    #[test]
    fn answers_come_back_as_they_went_in() {
        let message = Bytes::from(answers().encode_to_vec());
        let answers = Answers::decode(PackedAnswers::decode(message).unwrap()).unwrap();
        assert_eq!(answers.len(), 7);
        assert!(answers.answer(0).is_empty() && answers.answer(0).value().is_none());
        assert_eq!((answers.answer(1).value(), answers.answer(1).version), (Some(Bytes::new()), Some(0)));
        let value = answers.answer(2);
        assert_eq!(
            (value.value().unwrap(), value.version, value.expires_at_ms),
            ("value".into(), Some(7), Some(1_000))
        );
        let entries: Vec<_> = answers.answer(3).entries().collect();
        assert_eq!(entries, [("k1".into(), "v1".into()), ("k2".into(), Bytes::new())]);
        let page = answers.answer(3);
        assert_eq!((page.version, page.more, answers.answer(2).more), (Some(41), true, false));
        let verdicts: Vec<_> = answers.iter().map(|answer| answer.verdict).collect();
        assert_eq!(verdicts, [None, None, None, None, Some(true), Some(false), None]);
        assert!(answers.get(7).is_none());
    }

    #[test]
    fn items_share_the_buffer_of_the_message() {
        let message = Bytes::from(answers().encode_to_vec());
        let span = message.as_ptr_range();
        let answers = Answers::decode(PackedAnswers::decode(message).unwrap()).unwrap();
        assert!(span.contains(&answers.answer(2).value().unwrap().as_ptr()));
    }

    #[test]
    fn columns_that_do_not_fit_are_refused() {
        type Damage = fn(&mut PackedAnswers);
        let damages: [(Damage, &str); 7] = [
            (|p| p.counts[0] = u32::MAX, "column lens has 6 entries: 0 or 4294967301 allowed"),
            (|p| p.lens.clear(), "column lens has 0 entries"),
            (|p| p.lens[0] = u32::MAX, "arena has 11 bytes"),
            (|p| p.arena = p.arena.slice(1..), "arena has 10 bytes"),
            (|p| p.versions.truncate(1), "column versions has 1 entries"),
            (|p| p.verdicts = vec![3; 7].into(), "answer 0 has verdict 3"),
            (|p| p.expires_at_ms.push(1), "column expires_at_ms has 8 entries"),
        ];
        for (damage, message) in damages {
            let mut packed = answers();
            damage(&mut packed);
            let error = Answers::decode(packed).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
    }
}
