//! Files that go in a thread of their own.

use super::*;

/// A freeze waits for RocksDB's deletions, so they are done elsewhere; they have to be done all the same.
#[test]
fn files_that_nothing_needs_any_more_go_from_the_disk_though_not_at_once() {
    let place = Place::new();
    let dir = place.dir("db");
    let mut backend = place.backend(&dir, true);
    for round in 0..5 {
        put(&mut backend, Logging::Buffered, A, round);
        backend.flush().unwrap();
    }
    backend.compact().unwrap();
    let live = |backend: &RocksBackend| backend.engine.db.live_files().unwrap().len();
    let on_disk = || {
        let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(".sst") || name.ends_with(".trash")).count()
    };
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while on_disk() != live(&backend) && std::time::Instant::now() < deadline {
        std::thread::park_timeout(std::time::Duration::from_millis(10));
    }
    assert_eq!(on_disk(), live(&backend));
}
