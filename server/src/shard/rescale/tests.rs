//! Shards that become other shards, on every backend: no row is lost, none is in two places.

use std::{collections::BTreeMap, sync::OnceLock};

use forebay_proto::{
    key_group::{MaxParallelism, assign},
    merge::MergeFunction,
};
use v1::{Backend::Memory, Durability};

use super::*;
use crate::{
    shard::{ops::Counters, portable::write_portable},
    storage::{
        RocksConfig, Table,
        row::{self, Header},
    },
};

const PLAIN: Table = Table { id: TableId(4), merge: None };
const FOLDED: Table = Table { id: TableId(9), merge: Some(MergeFunction::BitOr) };
/// Only some shards have this one.
const RARE: Table = Table { id: TableId(30), merge: None };

#[cfg(feature = "rocksdb")]
const KINDS: [v1::Backend; 2] = [Memory, v1::Backend::Rocksdb];
#[cfg(not(feature = "rocksdb"))]
const KINDS: [v1::Backend; 1] = [Memory];

type Content = BTreeMap<(u32, Vec<u8>), Vec<u8>>;

fn backends() -> &'static Backends {
    static BACKENDS: OnceLock<Backends> = OnceLock::new();
    BACKENDS.get_or_init(|| Backends::new(&RocksConfig::default()).unwrap())
}

fn durability(kind: v1::Backend) -> Durability {
    if kind == Memory { Durability::None } else { Durability::Wal }
}

fn ranges(shards: u32) -> Vec<KeyGroupRange> {
    assign(MaxParallelism::new(128).unwrap(), shards)
}

fn content(backend: &dyn Backend) -> Content {
    let mut content = Content::new();
    for table in backend.tables().into_iter().filter(|table| table.id != TableId::SHARD) {
        let visit = &mut |key: &[u8], row: &[u8]| {
            assert_eq!(content.insert((table.id.0, key.to_vec()), row.to_vec()), None);
            ControlFlow::Continue(())
        };
        backend.scan(table.id, b"", &[0xff; 9], visit).unwrap();
    }
    content
}

/// A live shard with rows in all its key groups, some of them overwritten, deleted and compacted.
fn fill(backend: &mut dyn Backend, range: KeyGroupRange, logging: Logging) {
    for table in [PLAIN, FOLDED] {
        backend.create_table(table).unwrap();
    }
    let mut writes = Writes::default();
    for group in range.iter() {
        for i in 0..6_u8 {
            let key = [&group.row_prefix()[..], &[i, 1, 2]].concat();
            writes.put(PLAIN.id, &key, |out| out.extend_from_slice(&[i; 300]));
            let header = Header { write_ms: i.into(), ..Header::default() };
            for bit in [1_u64, 1 << i] {
                writes.merge(FOLDED.id, &key[..3], |out| row::encode(&header, &bit.to_be_bytes(), out));
            }
        }
        if group.get() % 7 == 0 {
            writes.delete_range(
                PLAIN.id,
                &[&group.row_prefix()[..], &[1]].concat(),
                &[&group.row_prefix()[..], &[3]].concat(),
            );
            backend.create_table(RARE).unwrap();
            writes.put(RARE.id, &[&group.row_prefix()[..], b"\x01x"].concat(), |out| out.push(1));
        }
        backend.write(&writes, logging).unwrap();
        writes.clear();
        if group.get() % 16 == 5 {
            backend.compact().unwrap();
        }
    }
    let start = i64::from(range.start());
    let counters = Counters { appends: 1000 - u64::from(range.start()), writes: 10 };
    Meta { counters, clock_ms: 500 + start, watermark_ms: Some(start) }.store(&mut writes);
    requests::put(&format!("request-{start}"), 5, &[1], &mut writes);
    Positions::store(&[position("all", 7), position(&format!("source-{start}"), start as u8)].into(), &mut writes);
    backend.write(&writes, logging).unwrap();
}

fn position(source: &str, at: u8) -> (String, bytes::Bytes) {
    (source.to_owned(), vec![at].into())
}

/// A job's shards as snapshots in directories, and what they hold in all.
fn snapshots(kind: v1::Backend, shards: u32, dir: &Path) -> (Vec<(PathBuf, KeyGroupRange)>, Content) {
    let (mut all, mut parts) = (Content::new(), Vec::new());
    for range in ranges(shards) {
        let (live, files) = (dir.join(format!("live-{range}")), dir.join(format!("files-{range}")));
        fs::create_dir_all(&live).unwrap();
        fs::create_dir_all(&files).unwrap();
        let mut backend = backends().open(kind, durability(kind), &live, Origin::New).unwrap();
        fill(backend.as_mut(), range, logging(durability(kind)));
        all.extend(content(backend.as_ref()));
        backend.freeze().unwrap().write_files(&files).unwrap();
        parts.push((files, range));
    }
    (parts, all)
}

/// Copies of the parts of a range, as a restore has them.
fn parts(of: &[(PathBuf, KeyGroupRange)], range: KeyGroupRange, kind: v1::Backend, dir: &Path) -> Vec<Part> {
    let overlapping = of.iter().filter_map(|(files, part)| Some((files, part.intersection(range)?)));
    let part = |(files, range): (&PathBuf, KeyGroupRange)| {
        let copy = dir.join(format!("part-{range}"));
        fs::create_dir_all(&copy).unwrap();
        for file in fs::read_dir(files).unwrap() {
            let file = file.unwrap();
            fs::hard_link(file.path(), copy.join(file.file_name())).unwrap();
        }
        Part { dir: copy, range, form: Form::Files(kind) }
    };
    overlapping.map(part).collect()
}

fn made(kind: v1::Backend, parts: &[Part], dir: &Path) -> Box<dyn Backend> {
    let (db, scratch) = (dir.join("db"), dir.join("scratch"));
    fs::create_dir_all(&db).unwrap();
    let target = Target { backends: backends(), kind, durability: durability(kind), db: &db, scratch: &scratch };
    assemble(&target, parts).unwrap()
}

/// Restores with another number of shards, and looks at every new shard.
fn rescale(from: v1::Backend, to: v1::Backend, old: u32, new: u32, reform: impl Fn(&mut Part)) {
    let dir = tempfile::tempdir().unwrap();
    let (snapshots, all) = snapshots(from, old, dir.path());
    let mut found = Content::new();
    for range in ranges(new) {
        let dir = dir.path().join(format!("new-{range}"));
        let mut parts = parts(&snapshots, range, from, &dir);
        parts.iter_mut().for_each(&reform);
        let backend = made(to, &parts, &dir);
        let mine = content(backend.as_ref());
        let (start, end) = range.row_bounds();
        assert!(mine.keys().all(|(_, key)| key[..] >= start[..] && key[..] < end[..]), "{old} to {new}: {range}");
        found.extend(mine);
        let sources = ranges(old).into_iter().filter(|part| part.intersection(range).is_some());
        let starts: Vec<u32> = sources.map(KeyGroupRange::start).collect();
        let Loaded { meta, requests, positions, .. } = Loaded::read(backend.as_ref()).unwrap();
        let (first, last) = (i64::from(starts[0]), i64::from(*starts.last().unwrap()));
        assert_eq!((meta.watermark_ms, meta.clock_ms), (Some(first), 500 + last));
        assert!(meta.counters.appends >= 1000 - u64::from(starts[0]));
        assert!(starts.iter().all(|start| requests.applied_with(&format!("request-{start}")).is_some()));
        let own = starts.iter().map(|start| position(&format!("source-{start}"), *start as u8));
        assert_eq!(positions.to_wire(), own.chain([position("all", 7)]).collect());
    }
    assert!(found == all, "{from:?} to {to:?}, {old} to {new}: {} of {} rows", found.len(), all.len());
}

#[test]
fn shards_that_hold_a_source_up_to_different_positions_do_not_become_one() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let (mut parts, _) = snapshots(kind, 2, dir.path());
        let mut other = backends().open(kind, durability(kind), &parts[1].0, Origin::Restored).unwrap();
        let mut writes = Writes::default();
        Positions::store(&[position("all", 8)].into(), &mut writes);
        other.write(&writes, logging(durability(kind))).unwrap();
        let changed = dir.path().join("changed");
        fs::create_dir(&changed).unwrap();
        other.freeze().unwrap().write_files(&changed).unwrap();
        parts[1].0 = changed;
        let parts: Vec<_> =
            parts.into_iter().map(|(dir, range)| Part { dir, range, form: Form::Files(kind) }).collect();
        let (db, scratch) = (dir.path().join("db"), dir.path().join("scratch"));
        fs::create_dir(&db).unwrap();
        let (backends, durability) = (backends(), durability(kind));
        let target = Target { backends, kind, durability, db: &db, scratch: &scratch };
        let error = assemble(&target, &parts).err().unwrap().to_string();
        assert!(error.contains("hold source \"all\" up to different positions"), "{error}");
    }
}

#[test]
fn any_number_of_shards_becomes_any_other() {
    for kind in KINDS {
        for (old, new) in [(1, 4), (4, 1), (3, 5), (5, 3)] {
            rescale(kind, kind, old, new, |_| {});
        }
    }
}

#[test]
fn fifteen_shards_become_seventy_seven_and_back() {
    for kind in KINDS {
        rescale(kind, kind, 15, 77, |_| {});
        rescale(kind, kind, 77, 15, |_| {});
    }
}

/// Turns a part into one in the portable format.
fn as_portable(kind: v1::Backend) -> impl Fn(&mut Part) {
    move |part| {
        let backend = backends().open(kind, durability(kind), &part.dir, Origin::Restored).unwrap();
        let states = [PLAIN, FOLDED, RARE].map(|table| v1::RegisteredState {
            id: table.id.0,
            descriptor: Some(v1::StateDescriptor {
                kind: if table.merge.is_some() { v1::StateKind::Reducing } else { v1::StateKind::Value }.into(),
                function: table.merge.map(|function| function.name().into_owned()).unwrap_or_default(),
                ..Default::default()
            }),
            ..Default::default()
        });
        let head = v1::CanonicalHead { states: states.to_vec(), ..Default::default() };
        let view = backend.view().unwrap();
        let whole = KeyGroupRange::new(0, 128).unwrap();
        write_portable(view.as_ref(), &backend.tables(), whole, &head, &part.dir.join("rows")).unwrap();
        part.form = Form::Canonical("rows".into());
    }
}

#[test]
fn a_canonical_savepoint_becomes_any_backend() {
    for from in KINDS {
        for to in KINDS {
            for (old, new) in [(2, 2), (2, 3)] {
                rescale(from, to, old, new, as_portable(from));
            }
        }
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn joined_files_keep_their_identity_so_that_nothing_is_uploaded_again() {
    let kind = v1::Backend::Rocksdb;
    let dir = tempfile::tempdir().unwrap();
    let ids = |backend: &mut dyn Backend, name: &str| -> Vec<String> {
        let into = dir.path().join(name);
        fs::create_dir(&into).unwrap();
        let files = backend.freeze().unwrap().write_files(&into).unwrap();
        files.into_iter().filter_map(|file| file.immutable_id).collect()
    };
    let mut before = Vec::new();
    let mut snapshots = Vec::new();
    for range in ranges(2) {
        let live = dir.path().join(format!("live-{range}"));
        fs::create_dir(&live).unwrap();
        let mut backend = backends().open(kind, Durability::Wal, &live, Origin::New).unwrap();
        fill(backend.as_mut(), range, Logging::Buffered);
        backend.compact().unwrap();
        let name = format!("files-{range}");
        before.extend(ids(backend.as_mut(), &name));
        snapshots.push((dir.path().join(name), range));
    }
    let whole = ranges(1)[0];
    let new = dir.path().join("new");
    let mut joined = made(kind, &parts(&snapshots, whole, kind, &new), &new);
    let after = ids(joined.as_mut(), "after");
    let kept = after.iter().filter(|id| before.contains(id)).count();
    // Each source has a file per state; those of the shards as a whole are made anew.
    assert!(kept >= 4, "{kept} of {before:?} are among {after:?}");
}
