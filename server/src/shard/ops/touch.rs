//! A touch gives what is stored a new deadline, as a write would: what a read does to a state whose TTL is
//! counted from reads, too (Flink: StateTtlConfig.UpdateType.OnReadAndWrite).

use forebay_proto::{reason::Refused, v1::StateKind};

use super::{Placed, WriteContext, multimap};
use crate::{shard::key, storage::row};

pub(super) fn touch(context: &mut WriteContext<'_>, placed: &Placed<'_>, row_key: &mut Vec<u8>) -> Result<(), Refused> {
    let Placed { op, state, .. } = *placed;
    let one_row = match state.kind() {
        StateKind::Value | StateKind::Reducing | StateKind::Aggregating => true,
        StateKind::Map | StateKind::SortedSet if !op.map_key.is_empty() => {
            row_key.extend_from_slice(op.map_key);
            true
        }
        StateKind::Multimap if !op.map_key.is_empty() => {
            multimap::entry(row_key, op.map_key);
            false
        }
        _ => false,
    };
    // A row that is one address alone ends where the first longer key begins.
    let end = if one_row { [row_key.as_slice(), &[0]].concat() } else { key::successor(row_key) };
    let rows = context.rows.rows_after(context.writes, state, (row_key, &end))?;
    let touched = context.header(state, &op);
    // What has expired stays so, even where reads are still shown it.
    let alive = rows.into_iter().filter(|(_, (before, _))| !state.ttl().expired(&context.rows.clocks, before));
    for (row_key, (before, payload)) in alive {
        let header = row::Header { version: before.version, ..touched };
        context.writes.put(state.table(), &row_key, |out| row::encode(&header, &payload, out));
    }
    Ok(())
}
