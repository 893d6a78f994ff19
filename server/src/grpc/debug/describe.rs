//! `DescribeState`: a state, and how its rows are spread.

use std::{ops::ControlFlow, sync::Arc};

use forebay_proto::{reason::Refused, v1};

use super::whereabouts::{Whereabouts, entry};
use crate::{
    grpc::state::scan::Part,
    shard::{core::Frozen, ops::Rows, thread::Shard},
};

/// Rows that an estimate of bytes is made of.
const SAMPLE_ROWS: u64 = 256;

/// Describes a state. A shard that cannot be read here says why, and counts as nothing.
pub(super) async fn describe(
    known: &Whereabouts,
    request: &v1::DescribeStateRequest,
) -> Result<v1::DescribeStateResponse, Refused> {
    let state = known.state(&request.operator, &request.state)?.clone();
    let mut shards = Vec::new();
    for shard in &known.known {
        let v1::ShardEntry { start, end, server, .. } = entry(shard);
        let size = match known.held(shard) {
            Ok(shard) => measure(shard, state.id, request.exact).await,
            Err(refused) => Err(refused),
        };
        let (size, error) = match size {
            Ok(size) => (size, String::new()),
            Err(refused) => (Size::default(), refused.message),
        };
        shards.push(v1::StateInShard { start, end, server, rows: size.rows, bytes: size.bytes, error });
    }
    Ok(v1::DescribeStateResponse {
        state: Some(state),
        rows: shards.iter().map(|shard| shard.rows).sum(),
        bytes: shards.iter().map(|shard| shard.bytes).sum(),
        exact: request.exact,
        shards,
    })
}

#[derive(Clone, Copy, Default)]
struct Size {
    rows: u64,
    /// Of row keys and values, without what the backend adds or saves.
    bytes: u64,
}

async fn measure(shard: Arc<Shard>, state: u32, exact: bool) -> Result<Size, Refused> {
    let part = Part::of(shard.clone(), state, false).await?;
    let (start, end) = part.bounds();
    if exact {
        return part.read(move |frozen| sum(frozen, &start, &end, u64::MAX)).await;
    }
    let rows = shard.estimate(state).await?;
    let sample = part.read(move |frozen| sum(frozen, &start, &end, SAMPLE_ROWS)).await?;
    Ok(Size { rows, bytes: scaled(sample, rows) })
}

/// The bytes of so many rows, if they are as those of the sample.
fn scaled(sample: Size, rows: u64) -> u64 {
    let bytes = u128::from(sample.bytes) * u128::from(rows) / u128::from(sample.rows.max(1));
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

fn sum(frozen: &Frozen, start: &[u8], end: &[u8], rows_max: u64) -> Result<Size, Refused> {
    let rows = Rows { read: frozen.view.as_ref(), clocks: frozen.clocks };
    let mut size = Size::default();
    rows.scan(&frozen.state, start, end, &mut |row_key, _, payload| {
        size.rows += 1;
        size.bytes += (row_key.len() + payload.len()) as u64;
        Ok(if size.rows == rows_max { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_is_the_sample_times_the_rows() {
        assert_eq!(scaled(Size { rows: 256, bytes: 2560 }, 1_000_000), 10_000_000);
        assert_eq!(scaled(Size::default(), 7), 0);
        assert_eq!(scaled(Size { rows: 1, bytes: u64::MAX }, 2), u64::MAX);
    }
}
