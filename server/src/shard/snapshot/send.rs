//! What all uploads of a server share: how many go at a time, how fast, and where packs are put together.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

use super::Error;
use crate::checkpoint::objects::SharedStore;

/// The uploads of a server.
#[derive(Debug)]
pub struct Uploads {
    places: Semaphore,
    pace: Pace,
    scratch: PathBuf,
}

impl Uploads {
    /// At most `parallel` at a time and, unless it is 0, `bytes_per_second` on average. `scratch` is a directory of
    /// their own; what an earlier process left there goes.
    pub fn new(parallel: usize, bytes_per_second: u64, scratch: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&scratch) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&scratch)?,
        }
        Ok(Self { places: Semaphore::new(parallel.max(1)), pace: Pace::new(bytes_per_second), scratch })
    }

    /// Stores a file of a length, and returns how many requests that took; those that were repeated apart.
    pub(super) async fn put_file(
        &self,
        store: &SharedStore,
        object: &str,
        file: &Path,
        length: u64,
    ) -> Result<u64, Error> {
        let _place = self.places.acquire().await.expect("never closed");
        self.pace.take(length).await;
        store.put_file(object, file).await.map_err(Error::Store)?;
        Ok(store.put_requests(length))
    }

    /// A fresh name for a file that goes away once it is stored.
    pub(super) fn scratch_file(&self) -> PathBuf {
        self.scratch.join(Uuid::new_v4().simple().to_string())
    }
}

/// Lets bytes through at a speed. Each upload pays for itself by the wait of those behind it.
#[derive(Debug)]
struct Pace {
    bytes_per_second: u64,
    free_at: Mutex<Option<Instant>>,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, free_at: Mutex::default() }
    }

    async fn take(&self, bytes: u64) {
        if self.bytes_per_second > 0 {
            sleep_until(self.start(bytes, Instant::now())).await;
        }
    }

    /// When bytes may go that are ready now.
    fn start(&self, bytes: u64, now: Instant) -> Instant {
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = free_at.map_or(now, |at| at.max(now));
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        *free_at = Some(start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2)));
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_at_the_speed_that_was_asked_for() {
        let pace = Pace::new(1000);
        let now = Instant::now();
        let start = |bytes, ready_ms| {
            let start = pace.start(bytes, now + Duration::from_millis(ready_ms));
            start.duration_since(now).as_millis()
        };
        assert_eq!((start(5000, 0), start(100, 10), start(0, 20)), (0, 5000, 5100));
        // What was not used is not saved up.
        assert_eq!((start(1000, 60_000), start(1, 60_000)), (60_000, 61_000));
    }

    #[tokio::test]
    async fn no_bound_is_no_wait() {
        Pace::new(0).take(u64::MAX).await;
    }

    #[test]
    fn what_an_earlier_process_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let scratch = dir.path().join("packs");
        fs::create_dir(&scratch).unwrap();
        fs::write(scratch.join("left"), "x").unwrap();
        Uploads::new(1, 0, scratch.clone()).unwrap();
        assert_eq!(fs::read_dir(scratch).unwrap().count(), 0);
    }
}
