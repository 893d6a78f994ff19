use std::{process::Command, sync::Arc};

use super::*;
use crate::checkpoint::conformance;

fn store() -> (tempfile::TempDir, LocalStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = LocalStore::open(dir.path()).unwrap();
    (dir, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn local_store_conforms() {
    let (_dir, store) = store();
    conformance::check(Arc::new(store)).await;
}

#[tokio::test]
async fn its_own_files_are_never_objects() {
    let (dir, store) = store();
    store.put("a/b", Bytes::from_static(b"x")).await.unwrap();
    let _writing = TempFile::create(dir.path()).unwrap();
    assert!(dir.path().join(".forebay-lock").exists());
    let paths: Vec<_> = store.list("").await.unwrap().into_iter().map(|object| object.path).collect();
    assert_eq!(paths, ["a/b"]);
    assert!(matches!(store.get(".forebay-lock").await, Err(Error::Refused { .. })));
}

#[tokio::test]
async fn a_failed_write_leaves_nothing() {
    let (dir, store) = store();
    let err = store.put_file("a", &dir.path().join("missing")).await.unwrap_err();
    assert!(err.to_string().contains("cannot read"), "{err}");
    store.put("a/b", Bytes::new()).await.unwrap();
    let err = store.put("a/b/c", Bytes::new()).await.unwrap_err();
    assert!(matches!(err, Error::Refused { .. }), "{err}");
    assert_eq!(fs::read_dir(dir.path().join(".forebay-tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn folders_go_with_their_last_object() {
    let (dir, store) = store();
    store.put("a/b/c", Bytes::new()).await.unwrap();
    store.put("a/d", Bytes::new()).await.unwrap();
    store.delete("a/b/c").await.unwrap();
    assert!(!dir.path().join("a/b").exists());
    assert!(dir.path().join("a/d").exists());
}

#[test]
fn orphans_of_crashed_writers_are_removed_and_files_being_written_are_not() {
    let (dir, _store) = store();
    let mut writing = TempFile::create(dir.path()).unwrap();
    let orphan = dir.path().join(".forebay-tmp/orphan");
    let old = UNIX_EPOCH;
    File::create(&orphan).unwrap().set_modified(old).unwrap();
    writing.file().set_modified(old).unwrap();
    LocalStore::open(dir.path()).unwrap();
    assert!(!orphan.exists());
    assert_eq!(fs::read_dir(dir.path().join(".forebay-tmp")).unwrap().count(), 1);
}

#[test]
fn errors_say_what_to_do() {
    let full = std::io::Error::from(ErrorKind::StorageFull);
    let err = files::error("file:///d", "a", full);
    assert!(matches!(&err, Error::Unavailable { .. }) && err.to_string().contains("free some space"), "{err}");
    let denied = std::io::Error::from(ErrorKind::PermissionDenied);
    let err = files::error("file:///d", "a", denied);
    assert!(matches!(&err, Error::Refused { .. }) && err.to_string().contains("read and write"), "{err}");
}

/// Not a test of its own: what the processes of the next test run.
#[tokio::test]
async fn child_increments_a_counter() {
    let Ok(dir) = std::env::var("FOREBAY_TEST_COUNTER_DIR") else { return };
    let store = LocalStore::open(Path::new(&dir)).unwrap();
    for _ in 0..50 {
        conformance::increment(&store, "counter").await;
    }
}

#[tokio::test]
async fn the_lock_holds_between_processes() {
    let (dir, store) = store();
    let child = || {
        Command::new(std::env::current_exe().unwrap())
            .args(["child_increments_a_counter", "--test-threads=1"])
            .env("FOREBAY_TEST_COUNTER_DIR", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| child()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let (bytes, _) = store.get("counter").await.unwrap();
    assert_eq!(&bytes[..8], &200u64.to_be_bytes());
}
