//! What was answered, against what a file expects.

use forebay_proto::{
    merge::{MergeFunction, ResultCodec},
    packed::AnswerRef,
    packed_list,
    v1::OpKind,
};
use serde_json::Value;

use super::{
    format::{Descriptor, Op},
    values::{decode, same},
};

/// How the items of an answer are read.
enum Shape {
    /// One item, or absent.
    One(String),
    /// One item that is a packed list, or absent.
    Packed(String),
    /// There, or not.
    Flag,
    /// Items in a row.
    Many(String),
    /// Map keys and values in turn.
    Pairs(String, String),
}

/// The answer as a file would say it, and whether it is the one expected.
pub(super) fn compare(kind: OpKind, state: &Descriptor, answer: &AnswerRef<'_>, expected: &Value) -> (Value, bool) {
    let items: Vec<_> = answer.items().collect();
    let shape = shape(kind, state);
    let list = |codec: &str, items: &[&[u8]]| {
        let said = items.iter().map(|item| decode(codec, item)).collect();
        let wanted = expected.as_array();
        let equal = wanted.is_some_and(|wanted| {
            wanted.len() == items.len() && items.iter().zip(wanted).all(|(item, value)| same(codec, item, value))
        });
        (Value::Array(said), equal)
    };
    match (&shape, items.as_slice()) {
        (Shape::Flag, items) => ((!items.is_empty()).into(), expected.as_bool() == Some(!items.is_empty())),
        (Shape::One(_) | Shape::Packed(_), []) => (Value::Null, expected.is_null()),
        (Shape::One(codec), [item]) => (decode(codec, item), !expected.is_null() && same(codec, item, expected)),
        (Shape::Packed(codec), [item]) => list(codec, &packed_list::iter(item).collect::<Vec<_>>()),
        (Shape::One(_) | Shape::Packed(_), several) => (format!("{} items", several.len()).into(), false),
        (Shape::Many(codec), items) => list(codec, &items.iter().map(|item| &item[..]).collect::<Vec<_>>()),
        (Shape::Pairs(key, value), items) => {
            let pair = |pair: &[bytes::Bytes]| -> Value {
                vec![decode(key, &pair[0]), pair.get(1).map_or(Value::Null, |item| decode(value, item))].into()
            };
            let said: Vec<Value> = items.chunks(2).map(pair).collect();
            let matches = |(pair, wanted): (&[bytes::Bytes], &Value)| {
                pair.len() == 2 && same(key, &pair[0], &wanted[0]) && same(value, &pair[1], &wanted[1])
            };
            let equal = expected
                .as_array()
                .is_some_and(|wanted| wanted.len() == said.len() && items.chunks(2).zip(wanted).all(matches));
            (Value::Array(said), equal)
        }
    }
}

/// The next page's operation: behind the last item of this one.
pub(super) fn next_page(kind: OpKind, state: &Descriptor, answer: &AnswerRef<'_>, op: &mut super::OwnedOp) {
    if matches!(kind, OpKind::ListGet | OpKind::MultimapGet) {
        op.value = answer.version.expect("a page says the number of its last element").to_be_bytes().to_vec();
        return;
    }
    let items: Vec<_> = answer.items().collect();
    let last = match shape(kind, state) {
        Shape::Pairs(..) => items.len() - 2,
        _ => items.len() - 1,
    };
    op.map_key = [&items[last][..], &[0]].concat();
}

/// The expected answer of an operation, or a word for its absence.
pub(super) fn expected(op: &Op) -> &Value {
    op.expect.as_ref().unwrap_or(&Value::Null)
}

fn shape(kind: OpKind, state: &Descriptor) -> Shape {
    let (map_key, value) = (state.map_key.clone(), state.value.clone());
    match kind {
        OpKind::MapContains => Shape::Flag,
        OpKind::ListGet | OpKind::MultimapGet => Shape::Many(value),
        OpKind::MapEntries => Shape::Pairs(map_key, value),
        OpKind::MapKeys | OpKind::MultimapKeys | OpKind::SortedSetFirst => Shape::Many(map_key),
        OpKind::SortedSetCount => Shape::One("i64".into()),
        OpKind::ReducingGet | OpKind::AggregatingGet => {
            match MergeFunction::parse(&state.function).expect("a function").result_codec(&value) {
                ResultCodec::One(codec) => Shape::One(codec.into()),
                ResultCodec::List(codec) => Shape::Packed(codec.into()),
            }
        }
        _ => Shape::One(value),
    }
}
