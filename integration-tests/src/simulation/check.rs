//! Whether a checkpoint holds the effects of exactly the records below its positions.

use std::collections::BTreeMap;

use forebay_proto::{KeyGroup, MaxParallelism, codec::Codec as _, v1};
use forebay_server::{shard::key, storage::row};

use super::{
    disk::Image,
    input::{self, Input, Record},
    kept,
    store::Store,
};

/// What a key holds.
#[derive(Debug, Default)]
struct Held {
    seen: Vec<(u32, u64)>,
    sum: Option<i64>,
    chain: Option<u64>,
}

/// Reads the source positions of a manifest, each partition's once.
pub fn positions(manifest: &v1::Manifest, input: &Input) -> Result<BTreeMap<u32, u64>, String> {
    let lists = manifest.workers.iter().flat_map(|worker| &worker.lists);
    let mut positions = BTreeMap::new();
    for element in lists.flat_map(|list| &list.elements) {
        let (partition, offset) = input::parse_element(element).ok_or("a position cannot be read")?;
        if positions.insert(partition, offset).is_some() {
            return Err(format!("partition {partition} has two positions"));
        }
    }
    let missing: Vec<_> = input.partitions().filter(|partition| !positions.contains_key(partition)).collect();
    if missing.is_empty() { Ok(positions) } else { Err(format!("partitions {missing:?} have no positions")) }
}

/// Compares the shards of a manifest with what the records below its positions come to.
pub fn checkpoint(manifest: &v1::Manifest, store: &Store, input: &Input) -> Result<BTreeMap<u32, u64>, String> {
    let positions = positions(manifest, input)?;
    let mut held: BTreeMap<Vec<u8>, Held> = BTreeMap::new();
    for snapshot in &manifest.shards {
        let image =
            store.image(snapshot).ok_or_else(|| format!("shard {} has no files in the store", snapshot.start))?;
        read(&image, snapshot, &manifest.states, &mut held)?;
    }
    for (key, (records, sum)) in input.effects(&positions) {
        let found = held.remove(&key).unwrap_or_default();
        compare(&found, &records, sum).map_err(|what| format!("key {}: {what}", key.escape_ascii()))?;
    }
    match held.into_iter().next() {
        None => Ok(positions),
        Some((key, found)) => Err(format!("key {} should be absent, holds {found:?}", key.escape_ascii())),
    }
}

/// Compares each shard of a manifest with what the records come to that it says it contains; returns the positions
/// that all shards have reached.
pub fn kept(manifest: &v1::Manifest, store: &Store, input: &Input) -> Result<BTreeMap<u32, u64>, String> {
    if manifest.workers.iter().any(|worker| !worker.lists.is_empty()) {
        return Err("a worker has state of its own".into());
    }
    let mut reached: BTreeMap<u32, u64> = BTreeMap::new();
    for snapshot in &manifest.shards {
        let start = snapshot.start;
        let position = |partition: u32| {
            let stored = snapshot.positions.get(&kept::source(partition)).and_then(|position| kept::parse(position));
            (partition, stored.unwrap_or(0))
        };
        let positions: BTreeMap<u32, u64> = input.partitions().map(position).collect();
        let image = store.image(snapshot).ok_or_else(|| format!("shard {start} has no files in the store"))?;
        let mut held: BTreeMap<Vec<u8>, Held> = BTreeMap::new();
        read(&image, snapshot, &manifest.states, &mut held)?;
        let is_here = |key: &[u8]| {
            (snapshot.start..snapshot.end).contains(&KeyGroup::of(key, MaxParallelism::DEFAULT).get().into())
        };
        for (key, (records, sum)) in input.effects(&positions).into_iter().filter(|(key, _)| is_here(key)) {
            let found = held.remove(&key).unwrap_or_default();
            compare(&found, &records, sum)
                .map_err(|what| format!("shard {start} at {positions:?}, key {}: {what}", key.escape_ascii()))?;
        }
        if let Some((key, found)) = held.into_iter().next() {
            let key = key.escape_ascii();
            return Err(format!("shard {start} at {positions:?}: key {key} should be absent, holds {found:?}"));
        }
        for (partition, position) in positions.into_iter().filter(|(it, _)| input.touches(*it, is_here)) {
            let least = reached.entry(partition).or_insert(position);
            *least = position.min(*least);
        }
    }
    Ok(reached)
}

fn compare(found: &Held, records: &[Record], sum: i64) -> Result<(), String> {
    let mut expected: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    records.iter().for_each(|record| expected.entry(record.partition).or_default().push(record.offset));
    let mut seen: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    found.seen.iter().for_each(|(partition, offset)| seen.entry(*partition).or_default().push(*offset));
    if seen != expected {
        return Err(format!("its list is {seen:?}, the records are {expected:?}"));
    }
    if found.sum != Some(sum) {
        return Err(format!("its sum is {:?}, the records' is {sum}", found.sum));
    }
    let mut chained = found.seen.iter().filter(|(_, offset)| offset.is_multiple_of(3)).peekable();
    let any = chained.peek().is_some();
    let chain = chained.fold(0, |chain, (partition, offset)| input::link(chain, *partition, *offset));
    if found.chain != any.then_some(chain) {
        return Err(format!("its hash chain is {:x?}, in the order of its list it is {chain:x}", found.chain));
    }
    Ok(())
}

fn read(
    image: &Image,
    snapshot: &v1::ShardSnapshot,
    states: &[v1::RegisteredState],
    held: &mut BTreeMap<Vec<u8>, Held>,
) -> Result<(), String> {
    for (table, rows) in &image.tables {
        let Some(state) = states.iter().find(|state| state.id == table.id.0) else { continue };
        let name = state.descriptor.as_ref().map_or("", |descriptor| &descriptor.name);
        for (row_key, stored) in rows {
            let at = key::parse(row_key).ok_or("a row key cannot be read")?;
            let (_, payload) = row::decode(stored).map_err(|error| error.to_string())?;
            let group = u32::from(at.group);
            if group != u32::from(KeyGroup::of(at.key, MaxParallelism::DEFAULT)) {
                return Err(format!("a row of key {} is in key group {group}", at.key.escape_ascii()));
            }
            if !(snapshot.start..snapshot.end).contains(&group) {
                return Err(format!("key group {group} is in shard {}", snapshot.start));
            }
            let held = held.entry(at.key.to_vec()).or_default();
            match name {
                input::LIST => held.seen.push(input::parse_element(payload).ok_or("an element cannot be read")?),
                input::SUM => {
                    held.sum = Some(forebay_proto::codec::I64::decode(payload).map_err(|error| error.to_string())?)
                }
                _ => held.chain = Some(forebay_proto::codec::U64::decode(payload).map_err(|error| error.to_string())?),
            }
        }
    }
    Ok(())
}
