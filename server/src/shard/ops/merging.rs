//! Merges namespaces of a key into one, for session windows (Flink: InternalMergingState.mergeNamespaces).

use forebay_proto::{packed_list, reason::Refused, v1::StateKind};

use super::{Placed, WriteContext, clear_between, list, reducing};
use crate::{
    seeded::{self, Bug},
    shard::key,
    storage::row,
};

/// Moves what the sources hold, in their order, behind what the target holds, and removes the sources.
///
/// List elements get new numbers and keep their times; accumulators are merged, with the time and deadline
/// of the last that is not empty. A source that is the target itself is left where it is.
pub(super) fn merge_namespaces(
    context: &mut WriteContext<'_>,
    placed: &Placed<'_>,
    target: &[u8],
) -> Result<(), Refused> {
    let Placed { op, state, group } = *placed;
    packed_list::validate(op.value).map_err(|error| super::malformed(error.to_string()))?;
    let mut sources: Vec<Vec<u8>> = Vec::new();
    for namespace in packed_list::iter(op.value) {
        let mut source = Vec::new();
        key::prefix(&mut source, group, op.key, namespace);
        if source != target && !sources.contains(&source) {
            sources.push(source);
        }
    }
    match state.kind() {
        StateKind::List => merge_lists(context, placed, &sources, target),
        StateKind::Reducing | StateKind::Aggregating => merge_accumulators(context, placed, &sources, target),
        _ => Err(super::wrong_kind(op.kind, state)),
    }
}

fn merge_lists(
    context: &mut WriteContext<'_>,
    placed: &Placed<'_>,
    sources: &[Vec<u8>],
    target: &[u8],
) -> Result<(), Refused> {
    let state = placed.state;
    let mut row_key = target.to_vec();
    for source in sources {
        let end = key::successor(source);
        let rows = context.rows.rows_after(context.writes, state, (source, &end))?;
        clear_between(context, state, source, &end)?;
        for (header, element) in rows.into_values() {
            list::push(context, state, &mut row_key, &header, &element);
        }
    }
    Ok(())
}

fn merge_accumulators(
    context: &mut WriteContext<'_>,
    placed: &Placed<'_>,
    sources: &[Vec<u8>],
    target: &[u8],
) -> Result<(), Refused> {
    let state = placed.state;
    let function = reducing::function(state)?;
    let mut merged: Option<(row::Header, Vec<u8>)> = None;
    for row_key in std::iter::once(target).chain(sources.iter().map(Vec::as_slice)) {
        let Some((header, accumulator)) = context.rows.get_after(context.writes, state, row_key)? else { continue };
        merged = Some(match merged {
            None => (header, accumulator.to_vec()),
            Some((_, left)) => {
                let mut both = Vec::new();
                match () {
                    () if seeded::is(Bug::MergeSwapped) => function.merge(&accumulator, &left, &mut both),
                    () if seeded::is(Bug::MergeNotAssociative) => function.fold(Some(&left), &accumulator, &mut both),
                    () => function.merge(&left, &accumulator, &mut both),
                }
                (header, both)
            }
        });
    }
    sources.iter().for_each(|source| context.writes.delete(state.table(), source));
    if let Some((header, accumulator)) = merged {
        context.writes.put(state.table(), target, |out| row::encode(&header, &accumulator, out));
    }
    Ok(())
}
