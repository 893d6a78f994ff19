//! Packed lists: several byte strings in one value.
//!
//! The value of LIST_APPEND_ALL, LIST_PUT and MERGE_NAMESPACES is `u32 LE length, bytes`, repeated. The value
//! of a compare-and-set by value is `u32 LE length, expected, replacement`.
//!
//! Invariant: any input is read or refused, never a panic.

/// Why bytes are no packed list or compare-and-set value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A length does not fit, or is cut off itself.
    #[error("packed list breaks off at byte {offset} of {bytes} (u32 little endian length, then as many bytes)")]
    Truncated {
        /// Where the element starts.
        offset: usize,
        /// Bytes of the whole.
        bytes: usize,
    },
}

/// Adds an element.
///
/// # Panics
/// If the element is 4 GiB or longer, which no message can carry.
pub fn push(list: &mut Vec<u8>, element: &[u8]) {
    let len = u32::try_from(element.len()).expect("an element is shorter than 4 GiB");
    list.extend_from_slice(&len.to_le_bytes());
    list.extend_from_slice(element);
}

/// Packs elements into a list.
pub fn pack<I: AsRef<[u8]>>(elements: impl IntoIterator<Item = I>) -> Vec<u8> {
    let mut list = Vec::new();
    for element in elements {
        push(&mut list, element.as_ref());
    }
    list
}

/// Checks a list and returns the number of its elements.
pub fn validate(list: &[u8]) -> Result<usize, Error> {
    let mut elements = iter(list);
    let count = elements.by_ref().count();
    if elements.rest.is_empty() { Ok(count) } else { Err(elements.truncated(list)) }
}

/// Returns the elements as slices of the list; ends where it breaks off, so [`validate`] comes first.
pub fn iter(list: &[u8]) -> Iter<'_> {
    Iter { rest: list }
}

/// Walks the elements of a packed list.
#[derive(Debug, Clone)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl Iter<'_> {
    fn truncated(&self, list: &[u8]) -> Error {
        Error::Truncated { offset: list.len() - self.rest.len(), bytes: list.len() }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        let (element, rest) = split(self.rest)?;
        self.rest = rest;
        Some(element)
    }
}

/// Makes the value of a compare-and-set by value.
pub fn cas_value(expected: &[u8], replacement: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(4 + expected.len() + replacement.len());
    push(&mut value, expected);
    value.extend_from_slice(replacement);
    value
}

/// Splits the value of a compare-and-set by value into what is expected and its replacement.
pub fn split_cas(value: &[u8]) -> Result<(&[u8], &[u8]), Error> {
    split(value).ok_or(Error::Truncated { offset: 0, bytes: value.len() })
}

fn split(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = list.split_first_chunk()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_as_they_went_in() {
        let list = pack(["", "a", "bcd"]);
        assert_eq!(list, b"\0\0\0\0\x01\0\0\0a\x03\0\0\0bcd");
        assert_eq!(validate(&list), Ok(3));
        assert_eq!(iter(&list).collect::<Vec<_>>(), [&b""[..], b"a", b"bcd"]);
        assert_eq!(validate(&[]), Ok(0));
    }

    #[test]
    fn a_list_that_breaks_off_is_refused() {
        let list = pack(["a", "bcd"]);
        for end in (0..list.len()).filter(|end| ![0, 5].contains(end)) {
            assert!(validate(&list[..end]).is_err(), "{end}");
        }
        assert_eq!(validate(&list[..6]), Err(Error::Truncated { offset: 5, bytes: 6 }));
        assert!(validate(&[0xff; 9]).is_err());
    }

    #[test]
    fn a_compare_and_set_holds_both_values() {
        assert_eq!(split_cas(&cas_value(b"old", b"")), Ok((&b"old"[..], &b""[..])));
        assert!(split_cas(&[9, 0, 0, 0, 1]).is_err() && split_cas(b"ab").is_err());
    }
}
