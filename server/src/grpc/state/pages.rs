//! Pages of a list, map or sorted set: from where to where, and the token that leads to the next.

use bytes::Bytes;
use forebay_proto::{packed::AnswerRef, reason::Refused, v1};
use v1::{ErrorReason as Reason, OpKind};

use super::place::Place;

/// What of a list, map or sorted set is read.
pub(super) struct Range {
    /// The first map key or element; empty for lists.
    pub(super) start: Vec<u8>,
    /// End of the map keys or elements, or the number of the list element before the page.
    pub(super) end: Vec<u8>,
    /// Incarnation that the page token is of; 0 without one.
    incarnation: u64,
}

impl Range {
    /// Reads it off a request.
    pub(super) fn of(place: &Place, kind: OpKind, request: &v1::GetRequest) -> Result<Self, Refused> {
        let (incarnation, resumed) = match request.page_token.split_first_chunk() {
            _ if request.page_token.is_empty() => (0, None),
            Some((incarnation, resumed)) => (u64::from_be_bytes(*incarnation), Some(resumed.to_vec())),
            None => return Err(invalid("it is not one of ours")),
        };
        let is_list = matches!(kind, OpKind::ListGet | OpKind::MultimapGet);
        if is_list {
            return Ok(Self { start: Vec::new(), end: resumed.unwrap_or_default(), incarnation });
        }
        let prefix = place.bound(request.map_prefix.clone(), "map_prefix")?;
        let start = place.bound(request.map_start.clone(), "map_start")?.max(prefix.clone());
        let mut end = place.bound(request.map_end.clone(), "map_end")?;
        if let Some(behind) = behind_prefix(&prefix)
            && (end.is_empty() || behind < end)
        {
            end = behind;
        }
        Ok(Self { start: resumed.unwrap_or(start), end, incarnation })
    }

    /// Refuses a token of another incarnation: what it points into has gone back.
    pub(super) fn check(&self, progress: &v1::Progress) -> Result<(), Refused> {
        if self.incarnation == 0 || self.incarnation == progress.incarnation {
            return Ok(());
        }
        Err(invalid("the state has gone back to a checkpoint since: start again"))
    }
}

/// The token that leads behind an answer's items; empty if there is no more.
pub(super) fn next(kind: OpKind, answer: &AnswerRef<'_>, progress: &v1::Progress) -> Bytes {
    if !answer.more {
        return Bytes::new();
    }
    let position = match kind {
        OpKind::ListGet | OpKind::MultimapGet => answer.version.unwrap_or(0).to_be_bytes().to_vec(),
        OpKind::MapEntries => answer.entries().last().map(|(key, _)| [&key[..], &[0]].concat()).unwrap_or_default(),
        _ => answer.items().last().map(|key| [&key[..], &[0]].concat()).unwrap_or_default(),
    };
    [&progress.incarnation.to_be_bytes()[..], &position].concat().into()
}

fn behind_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut behind = prefix[..=kept].to_vec();
    behind[kept] += 1;
    Some(behind)
}

fn invalid(why: &str) -> Refused {
    Refused::new(Reason::PageTokenInvalid, format!("the page token cannot be used: {why}")).field("page_token")
}

#[cfg(test)]
mod tests {
    use super::behind_prefix;

    #[test]
    fn what_is_behind_a_prefix_is_behind_all_that_start_with_it() {
        assert_eq!(behind_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(behind_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(behind_prefix(b"\xff"), None);
        assert_eq!(behind_prefix(b""), None);
    }
}
