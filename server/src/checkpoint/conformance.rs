//! One list of behaviours that every object store is held to.
//!
//! Panics on the first deviation. Public, so that stores elsewhere (real S3 servers) are held to it too.

use std::{fs, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use uuid::Uuid;

use super::objects::{Condition, Error, ObjectStore, SharedStore, Version};

/// How many writers take part in a race.
const RACERS: u64 = 16;

/// Checks everything but listings of many pages, under a prefix of its own, which it leaves empty.
pub async fn check(store: SharedStore) {
    let prefix = format!("conformance-{}/", Uuid::new_v4());
    let at = |name: &str| format!("{prefix}{name}");
    let s = store.as_ref();
    an_object_is_read_as_it_was_written(s, &at("plain")).await;
    an_absent_object_is_not_found(s, &at("absent")).await;
    paths_that_leave_the_root_are_refused(s).await;
    a_conditional_write_happens_only_if_its_condition_holds(s, &at("head")).await;
    a_range_ends_with_the_object(s, &at("range")).await;
    a_listing_is_sorted_and_holds_what_starts_with_the_prefix(s, &at("list/")).await;
    a_file_becomes_an_object_of_its_bytes(s, &at("file")).await;
    of_many_creators_one_wins(&store, &at("race")).await;
    no_increment_is_lost(&store, &at("counter")).await;
    remove_all(s, &prefix).await;
}

/// Checks a listing of more than one page of S3 (1,000 objects).
pub async fn check_pages(store: SharedStore) {
    let prefix = format!("conformance-{}/", Uuid::new_v4());
    let paths: Vec<String> = (0..1100).map(|n| format!("{prefix}{n:04}")).collect();
    for some in paths.chunks(50) {
        for result in join_all(some.iter().map(|path| store.put(path, Bytes::from(path.clone())))).await {
            result.unwrap();
        }
    }
    let found: Vec<String> = list(store.as_ref(), &prefix).await;
    assert_eq!(found.len(), paths.len(), "a page is missing");
    assert_eq!(found, paths);
    remove_all(store.as_ref(), &prefix).await;
}

/// Adds one to the counter in an object, by conditional writes, however often others come between.
pub async fn increment(store: &dyn ObjectStore, path: &str) {
    loop {
        let (count, condition) = match store.get(path).await {
            Ok((bytes, version)) => (u64::from_be_bytes(bytes[..8].try_into().unwrap()), Condition::Is(version)),
            Err(Error::NotFound { .. }) => (0, Condition::Absent),
            Err(err) => panic!("{err}"),
        };
        let content = [&(count + 1).to_be_bytes()[..], Uuid::new_v4().as_bytes()].concat();
        match store.put_if(path, content.into(), &condition).await {
            Ok(_) => return,
            Err(Error::Conflict { .. }) => {}
            Err(err) => panic!("{err}"),
        }
    }
}

async fn an_object_is_read_as_it_was_written(store: &dyn ObjectStore, path: &str) {
    let every_byte: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    store.put(path, Bytes::from_static(b"first")).await.unwrap();
    let (_, first) = store.get(path).await.unwrap();
    store.put(path, every_byte.clone().into()).await.unwrap();
    let (bytes, second) = store.get(path).await.unwrap();
    assert_eq!(bytes, every_byte);
    assert_ne!(first, second, "two contents share a version");
    store.put(path, Bytes::new()).await.unwrap();
    assert_eq!(store.get(path).await.unwrap().0, Bytes::new());
}

async fn an_absent_object_is_not_found(store: &dyn ObjectStore, path: &str) {
    let not_found = |err| matches!(err, Error::NotFound { path: p } if p == path);
    assert!(not_found(store.get(path).await.unwrap_err()));
    assert!(not_found(store.get_range(path, 0..5).await.unwrap_err()));
    store.delete(path).await.unwrap();
    store.put(path, Bytes::from_static(b"x")).await.unwrap();
    store.delete(path).await.unwrap();
    assert!(not_found(store.get(path).await.unwrap_err()));
}

async fn paths_that_leave_the_root_are_refused(store: &dyn ObjectStore) {
    for path in ["", "/a", "a/", "a//b", ".", "../a", "a/../b", "a\\b", "a\0b", "a\nb", ".forebay-tmp/a"] {
        let results = [
            store.put(path, Bytes::new()).await.err(),
            store.put_if(path, Bytes::new(), &Condition::Absent).await.err(),
            store.get(path).await.err(),
            store.get_range(path, 0..1).await.err(),
            store.delete(path).await.err(),
        ];
        for err in results {
            assert!(matches!(err, Some(Error::Refused { .. })), "{path:?}: {err:?}");
        }
    }
}

async fn a_conditional_write_happens_only_if_its_condition_holds(store: &dyn ObjectStore, path: &str) {
    let conflict = |result| matches!(result, Err(Error::Conflict { path: p }) if p == path);
    let never = Condition::Is(Version("\"00000000000000000000000000000000\"".into()));
    assert!(conflict(store.put_if(path, Bytes::from_static(b"x"), &never).await));
    assert!(matches!(store.get(path).await, Err(Error::NotFound { .. })), "a failed write left an object");

    let v1 = store.put_if(path, Bytes::from_static(b"1"), &Condition::Absent).await.unwrap();
    assert!(conflict(store.put_if(path, Bytes::from_static(b"x"), &Condition::Absent).await));
    assert_eq!(store.get(path).await.unwrap(), (Bytes::from_static(b"1"), v1.clone()));

    let v2 = store.put_if(path, Bytes::from_static(b"2"), &Condition::Is(v1.clone())).await.unwrap();
    assert_ne!(v1, v2);
    for stale in [&Condition::Is(v1), &never, &Condition::Absent] {
        assert!(conflict(store.put_if(path, Bytes::from_static(b"x"), stale).await));
    }
    assert_eq!(store.get(path).await.unwrap(), (Bytes::from_static(b"2"), v2.clone()));

    let v3 = store.put_if(path, Bytes::from_static(b"3"), &Condition::Is(v2)).await.unwrap();
    store.delete(path).await.unwrap();
    assert!(conflict(store.put_if(path, Bytes::from_static(b"x"), &Condition::Is(v3)).await));
    store.put_if(path, Bytes::from_static(b"4"), &Condition::Absent).await.unwrap();
}

async fn a_range_ends_with_the_object(store: &dyn ObjectStore, path: &str) {
    store.put(path, Bytes::from_static(b"0123456789")).await.unwrap();
    let cases: [(std::ops::Range<u64>, &[u8]); 8] = [
        (0..10, b"0123456789"),
        (0..1, b"0"),
        (3..5, b"34"),
        (8..100, b"89"),
        (10..12, b""),
        (50..60, b""),
        (4..4, b""),
        (9..u64::MAX, b"9"),
    ];
    for (range, wanted) in cases {
        assert_eq!(store.get_range(path, range.clone()).await.unwrap(), wanted, "{range:?}");
    }
    store.put(path, Bytes::new()).await.unwrap();
    assert_eq!(store.get_range(path, 0..4).await.unwrap(), Bytes::new());
}

async fn a_listing_is_sorted_and_holds_what_starts_with_the_prefix(store: &dyn ObjectStore, prefix: &str) {
    // In the order of their bytes: '-' < '.' < '/' < '0' < 'A' < 'a' < 'ü'.
    let names = ["a-b", "a.b", "a/b", "a/b-c/d", "a/c", "a0", "b c+d%&=?~", "b/A", "b/a", "b/ü"];
    for name in names.iter().rev() {
        store.put(&format!("{prefix}{name}"), Bytes::from(name.as_bytes().to_vec())).await.unwrap();
    }
    let named = |names: &[&str]| names.iter().map(|name| format!("{prefix}{name}")).collect::<Vec<_>>();
    assert_eq!(list(store, prefix).await, named(&names));
    assert_eq!(list(store, &format!("{prefix}a/")).await, named(&["a/b", "a/b-c/d", "a/c"]));
    assert_eq!(list(store, &format!("{prefix}a/b")).await, named(&["a/b", "a/b-c/d"]));
    assert_eq!(list(store, &format!("{prefix}b")).await, named(&names[6..]));
    assert_eq!(list(store, &format!("{prefix}nothing")).await, named(&[]));
    let first = &store.list(prefix).await.unwrap()[0];
    assert_eq!(first.length, 3);
    assert!(first.modified_ms > 1_600_000_000_000, "modified at {}", first.modified_ms);
    store.delete(&format!("{prefix}a/c")).await.unwrap();
    assert_eq!(list(store, &format!("{prefix}a/")).await, named(&["a/b", "a/b-c/d"]));
}

async fn a_file_becomes_an_object_of_its_bytes(store: &dyn ObjectStore, path: &str) {
    let file = Scratch(std::env::temp_dir().join(format!("forebay-conformance-{}", Uuid::new_v4())));
    // 40 MiB and a bit: several parts in S3, the last one short.
    for length in [0, 1, (40 << 20) + 17] {
        let content: Vec<u8> = (0..length).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(&file.0, &content).unwrap();
        store.put_file(path, &file.0).await.unwrap();
        let (bytes, _) = store.get(path).await.unwrap();
        assert!(bytes == content, "a file of {length} bytes came back otherwise");
        let end = u64::from(length);
        let tail = store.get_range(path, end.saturating_sub(5)..end + 5).await.unwrap();
        assert_eq!(tail, content[content.len().saturating_sub(5)..]);
    }
    let err = store.put_file(path, &file.0.join("missing")).await.unwrap_err();
    assert!(matches!(err, Error::Refused { .. }), "{err}");
}

async fn of_many_creators_one_wins(store: &SharedStore, path: &str) {
    let writers = (0..RACERS).map(|n| {
        let (store, path) = (Arc::clone(store), path.to_owned());
        tokio::spawn(async move { store.put_if(&path, n.to_be_bytes().to_vec().into(), &Condition::Absent).await })
    });
    let results: Vec<_> = join_all(writers).await.into_iter().map(Result::unwrap).collect();
    let mut winners = Vec::new();
    for (n, result) in (0u64..).zip(results) {
        match result {
            Ok(version) => winners.push((Bytes::from(n.to_be_bytes().to_vec()), version)),
            Err(Error::Conflict { .. }) => {}
            Err(err) => panic!("{err}"),
        }
    }
    assert_eq!(winners.len(), 1, "{} creators think that they won", winners.len());
    assert_eq!(store.get(path).await.unwrap(), winners[0]);
}

async fn no_increment_is_lost(store: &SharedStore, path: &str) {
    let writers = (0..RACERS / 2).map(|_| {
        let (store, path) = (Arc::clone(store), path.to_owned());
        tokio::spawn(async move {
            for _ in 0..4 {
                increment(store.as_ref(), &path).await;
            }
        })
    });
    for result in join_all(writers).await {
        result.unwrap();
    }
    let (bytes, _) = store.get(path).await.unwrap();
    assert_eq!(bytes[..8], (RACERS / 2 * 4).to_be_bytes());
}

async fn list(store: &dyn ObjectStore, prefix: &str) -> Vec<String> {
    store.list(prefix).await.unwrap().into_iter().map(|object| object.path).collect()
}

async fn remove_all(store: &dyn ObjectStore, prefix: &str) {
    for some in list(store, prefix).await.chunks(50) {
        for result in join_all(some.iter().map(|path| store.delete(path))).await {
            result.unwrap();
        }
    }
    assert_eq!(list(store, prefix).await, Vec::<String>::new());
}

/// A file that goes with its value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
