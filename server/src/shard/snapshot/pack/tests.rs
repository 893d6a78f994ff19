use bytes::Bytes;

use super::*;
use crate::checkpoint::{
    memory::MemoryStore,
    objects::{self, Condition, Object, ObjectStore, Version},
};

const ENDLESS: Duration = Duration::from_secs(1 << 30);

struct Place {
    dir: tempfile::TempDir,
    store: SharedStore,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), store: Arc::new(MemoryStore::default()) }
    }

    fn target(&self) -> Target {
        Target {
            store: self.store.clone(),
            job: layout::Job::at("job/").unwrap(),
            names: Names::Shared("s1".into()),
            uploads: Arc::new(Uploads::new(UPLOADS, 0, self.dir.path().join("packs")).unwrap()),
        }
    }

    fn piece(&self, content: &str) -> Piece {
        let path = self.dir.path().join(content);
        fs::write(&path, format!("..{content}..")).unwrap();
        Piece { path, at: 2, length: content.len() as u64 }
    }

    async fn content(&self, placed: &Placed, length: usize) -> Bytes {
        let range = placed.offset..placed.offset + length as u64;
        let bytes = self.store.get_range(&format!("job/{}", placed.object), range).await.unwrap();
        assert_eq!(crc32c::crc32c(&bytes), placed.crc32c);
        bytes
    }

    async fn objects(&self) -> usize {
        self.store.list("job/").await.unwrap().len()
    }
}

fn placed(answers: Vec<Answer>) -> Vec<Placed> {
    answers.into_iter().map(|answer| answer.unwrap()).collect()
}

#[tokio::test]
async fn the_files_of_all_shards_are_slices_of_one_object() {
    let place = Place::new();
    let mut packer = Packer::new(place.target(), 9);
    packer.expect(3);
    // Nobody waits once all have given: this would be for ever.
    packer.patience = ENDLESS;
    let (one, none, two) = tokio::join!(
        packer.give(vec![place.piece("one"), place.piece("three")]),
        packer.give(Vec::new()),
        packer.give(vec![place.piece("seven")]),
    );
    assert!(none.is_empty());
    assert_eq!(place.objects().await, 1);
    let placed = placed([one, two].concat());
    for (placed, content) in placed.iter().zip(["one", "three", "seven"]) {
        assert_eq!(place.content(placed, content.len()).await, content);
        assert_eq!(placed.object_bytes, 13);
    }
    assert_eq!(placed.iter().map(|placed| placed.puts).sum::<u64>(), 1);
    assert_eq!(fs::read_dir(place.dir.path().join("packs")).unwrap().count(), 0);
}

#[tokio::test]
async fn shards_that_have_nothing_new_store_nothing() {
    let place = Place::new();
    let packer = Packer::new(place.target(), 2);
    tokio::join!(packer.give(Vec::new()), packer.give(Vec::new()));
    assert_eq!(place.objects().await, 0);
}

#[tokio::test]
async fn a_slow_shard_is_waited_for_so_long_and_no_longer() {
    for heard in [true, false] {
        let place = Place::new();
        let mut packer = Packer::new(place.target(), 2);
        (packer.patience, packer.patience_unheard) = (Duration::from_millis(80), Duration::from_millis(20));
        if heard {
            packer.expect(2);
        }
        let start = Instant::now();
        placed(packer.give(vec![place.piece("one")]).await);
        assert!(start.elapsed() >= if heard { packer.patience } else { packer.patience_unheard });
        // The slow one waits for nobody, and has a pack of its own.
        packer.patience = ENDLESS;
        packer.patience_unheard = ENDLESS;
        placed(packer.give(vec![place.piece("two")]).await);
        assert_eq!(place.objects().await, 2);
    }
}

#[tokio::test]
async fn nobody_waits_in_a_round_that_has_ended_or_is_smaller_than_thought() {
    let ways: [fn(&Packer); 2] = [|packer| packer.close(), |packer| packer.expect(1)];
    for end in ways {
        let place = Place::new();
        let mut packer = Packer::new(place.target(), 7);
        packer.patience_unheard = ENDLESS;
        let (given, ()) = tokio::join!(packer.give(vec![place.piece("one")]), async { end(&packer) });
        placed(given);
        assert_eq!(place.objects().await, 1);
    }
}

#[tokio::test]
async fn a_full_pack_is_stored_and_another_begun() {
    let place = Place::new();
    let packer = Packer::new(place.target(), 1);
    let path = place.dir.path().join("large");
    File::create(&path).unwrap().set_len(PACK_BYTES / 4 + 1).unwrap();
    let piece = Piece { path, at: 0, length: PACK_BYTES / 4 + 1 };
    let placed = placed(packer.give(vec![piece; 7]).await);
    assert_eq!(place.objects().await, 3);
    assert_eq!(placed.iter().map(|placed| placed.puts).collect::<Vec<_>>(), [1, 0, 0, 1, 0, 0, 1]);
    assert!(placed.iter().all(|placed| placed.object_bytes <= PACK_BYTES));
}

#[tokio::test]
async fn the_error_of_a_pack_is_that_of_all_its_pieces() {
    let place = Place::new();
    let packer = Packer::new(place.target(), 2);
    let gone = Piece { path: place.dir.path().join("gone"), at: 0, length: 1 };
    let (one, two) = tokio::join!(packer.give(vec![place.piece("one")]), packer.give(vec![gone]));
    for answer in [one, two].concat() {
        assert!(answer.unwrap_err().to_string().contains("gone"));
    }
    assert_eq!(place.objects().await, 0);
}

/// Uploads at a time.
const UPLOADS: usize = 4;

/// A store that tells how many files are on their way to it at a time.
#[derive(Debug)]
struct Slow {
    inner: MemoryStore,
    now: Mutex<(usize, usize)>,
    /// As many as are to be on their way together wait for each other.
    together: tokio::sync::Barrier,
}

#[async_trait::async_trait]
impl ObjectStore for Slow {
    async fn put(&self, path: &str, bytes: Bytes) -> objects::Result<()> {
        self.inner.put(path, bytes).await
    }
    async fn put_file(&self, path: &str, file: &Path) -> objects::Result<()> {
        {
            let mut now = self.now.lock().unwrap();
            now.0 += 1;
            now.1 = now.1.max(now.0);
        }
        self.together.wait().await;
        // One too many would come meanwhile.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        self.now.lock().unwrap().0 -= 1;
        self.inner.put_file(path, file).await
    }
    async fn put_if(&self, path: &str, bytes: Bytes, condition: &Condition) -> objects::Result<Version> {
        self.inner.put_if(path, bytes, condition).await
    }
    async fn get(&self, path: &str) -> objects::Result<(Bytes, Version)> {
        self.inner.get(path).await
    }
    async fn get_range(&self, path: &str, range: std::ops::Range<u64>) -> objects::Result<Bytes> {
        self.inner.get_range(path, range).await
    }
    async fn list(&self, prefix: &str) -> objects::Result<Vec<Object>> {
        self.inner.list(prefix).await
    }
    async fn delete(&self, path: &str) -> objects::Result<()> {
        self.inner.delete(path).await
    }
    fn url(&self) -> &str {
        self.inner.url()
    }
}

#[tokio::test]
async fn uploads_at_a_time_are_bounded_over_all_jobs_of_a_server() {
    let place = Place::new();
    let slow = Arc::new(Slow {
        inner: MemoryStore::default(),
        now: Mutex::default(),
        together: tokio::sync::Barrier::new(UPLOADS),
    });
    let target = Target { store: slow.clone(), ..place.target() };
    let packers: Vec<_> = (0..3 * UPLOADS).map(|_| Packer::new(target.clone(), 1)).collect();
    let given = packers.iter().map(|packer| packer.give(vec![place.piece("one")]));
    for answers in join_all(given).await {
        placed(answers);
    }
    assert_eq!(slow.now.lock().unwrap().1, UPLOADS);
}
