//! The S3 fault matrix: 10 operations × 16 faults. A call ends in time, and either with the right content or
//! with an error that says what is wrong; never is wrong content taken as right.
//!
//! HEAD is sent only to settle what a lost answer to a CompleteMultipartUpload left open, so its row is an
//! upload whose answer is lost. "Right content" is what the callers find: objects are read with their frame or
//! checksum, as the product reads them, and whoever must know after a conflict reads back.

use forebay_integration_tests::matrix::{Outcome, Share, Tally};
use futures::{StreamExt, stream};

use super::*;

/// What the server is asked for in a row, in the words of S3.
const ROWS: [(&str, Operation); 10] = [
    ("PUT", Operation::Put),
    ("PUT-if-none", Operation::PutIfAbsent),
    ("PUT-if-match", Operation::PutIfMatch),
    ("CreateMPU", Operation::CreateUpload),
    ("UploadPart", Operation::UploadPart),
    ("CompleteMPU", Operation::CompleteUpload),
    ("GET", Operation::Get),
    ("HEAD", Operation::Head),
    ("LIST", Operation::List),
    ("DELETE", Operation::Delete),
];

const LONG: Duration = Duration::from_secs(600);

/// The faults of a column.
const COLUMNS: [(&str, &[Fault]); 16] = [
    ("500", &[Fault::Status(500, "InternalError")]),
    ("503 SlowDown", &[Fault::SlowDown503]),
    ("429", &[Fault::Status(429, "TooManyRequests")]),
    ("403 expired", &[Fault::Status(403, "ExpiredToken")]),
    ("404 lag", &[Fault::Status(404, "NoSuchKey")]),
    ("timeout before", &[Fault::Stall(LONG)]),
    ("timeout after success", &[Fault::StallAfter(LONG)]),
    ("reset mid-body up", &[Fault::CutUpload]),
    ("reset mid-body down", &[Fault::TruncateBody]),
    ("truncated 200", &[Fault::ShortBody]),
    ("wrong ETag or hash", &[Fault::WrongEtag, Fault::CorruptBody]),
    ("200 with error", &[Fault::CompleteError200]),
    ("409", &[Fault::Status(409, "OperationAborted")]),
    ("412 on own write", &[Fault::OwnCondition]),
    ("60 s stall", &[Fault::StallMid(Duration::from_secs(60))]),
    ("1 kB/s", &[Fault::Slow(1000)]),
];

/// Far more than all attempts of a call together.
const DEADLINE: Duration = Duration::from_secs(60);
/// Cells at once: they wait more than they work.
const CELLS_PARALLEL: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_s3_is_silent_or_without_end() {
    let share = Share::of_environment();
    let cells = (0..ROWS.len() * COLUMNS.len()).filter(|cell| share.takes(*cell));
    let mut tally = Tally::new("s3 fault matrix");
    let mut outcomes = stream::iter(cells.map(|cell| async move {
        let ((row, operation), (column, faults)) = (ROWS[cell / COLUMNS.len()], COLUMNS[cell % COLUMNS.len()]);
        (format!("{row} × {column}"), of_cell(operation, faults).await)
    }))
    .buffered(CELLS_PARALLEL);
    while let Some((cell, outcome)) = outcomes.next().await {
        tally.note(cell, outcome);
    }
    tally.conclude(share);
}

/// The worst outcome of a cell: each fault once, and each fault for ever.
async fn of_cell(operation: Operation, faults: &[Fault]) -> Outcome {
    let mut worst = Outcome::Right;
    for fault in faults {
        for when in [When::First(1), When::Always] {
            // A listing has no checksum of its own; only the transport can find a changed bit in it.
            if operation == Operation::List && *fault == Fault::CorruptBody {
                continue;
            }
            let outcome = tokio::time::timeout(DEADLINE, of_fault(operation, *fault, when)).await;
            match outcome.unwrap_or(Outcome::Hanging) {
                Outcome::Right => {}
                Outcome::Clear(detail) if worst == Outcome::Right => worst = Outcome::Clear(detail),
                Outcome::Clear(_) => {}
                bad => return bad,
            }
        }
    }
    worst
}

async fn of_fault(operation: Operation, fault: Fault, when: When) -> Outcome {
    let server = server().await;
    let short = S3Config { attempt_timeout: Duration::from_secs(1), attempts_max: 2, ..config(server.endpoint()) };
    let hasty = open_with("s3://state", &short).await;
    let patient = open_with("s3://state", &config(server.endpoint())).await;
    let call = Call::prepare(&server, &patient, operation).await;
    if operation == Operation::Head {
        server.faults().once(Operation::CompleteUpload, Fault::DropAfter);
    }
    server.faults().add(Rule::new(fault).of(operation).when(when));
    let outcome = call.make(&hasty).await;
    if server.faults().fired() == 0 {
        return Outcome::Silent("the fault befell nobody".into());
    }
    server.faults().clear();
    if let Outcome::Right | Outcome::Clear(_) = outcome {
        // The fault over, the same call does what it should.
        match call.make(&patient).await {
            Outcome::Right => {}
            later => return Outcome::Silent(format!("{outcome:?}, and after the fault {later:?}")),
        }
    }
    outcome
}

/// A call and what is there before it.
struct Call<'a> {
    server: &'a S3Server,
    patient: &'a S3Store,
    operation: Operation,
    file: tempfile::NamedTempFile,
    old: Bytes,
    new: Bytes,
}

impl<'a> Call<'a> {
    async fn prepare(server: &'a S3Server, patient: &'a S3Store, operation: Operation) -> Self {
        let object = |text: &str| frame::encode(ObjectKind::Manifest, &text.repeat(8 << 10));
        let (old, new) = (object("old text"), object("new text"));
        let file = tempfile::NamedTempFile::new().unwrap();
        let large: Vec<u8> = (0..(5u32 << 20) + 1000).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        std::fs::write(file.path(), large).unwrap();
        for path in ["cell", "list/a", "list/b/c"] {
            if operation != Operation::PutIfAbsent || path != "cell" {
                patient.put(path, old.clone()).await.unwrap();
            }
        }
        Self { server, patient, operation, file, old, new }
    }

    fn stored(&self, path: &str) -> Option<Bytes> {
        self.server.object(BUCKET, path)
    }

    async fn make(&self, store: &S3Store) -> Outcome {
        match self.operation {
            Operation::Put => {
                let result = store.put("cell", self.new.clone()).await;
                self.written("cell", result, &self.new, Some(&self.old))
            }
            Operation::PutIfAbsent => self.settled(store, &Condition::Absent).await,
            Operation::PutIfMatch => {
                let (_, version) = self.patient.get("cell").await.unwrap();
                self.settled(store, &Condition::Is(version)).await
            }
            Operation::CreateUpload | Operation::UploadPart | Operation::CompleteUpload | Operation::Head => {
                let result = store.put_file("file", self.file.path()).await;
                let content = Bytes::from(std::fs::read(self.file.path()).unwrap());
                self.written("file", result, &content, None)
            }
            Operation::Get => self.read(store).await,
            Operation::List => match store.list("list/").await {
                Ok(found) => {
                    let found: Vec<_> = found.into_iter().map(|object| (object.path, object.length)).collect();
                    let length = self.old.len() as u64;
                    let wanted = [("list/a".to_owned(), length), ("list/b/c".to_owned(), length)];
                    if found == wanted { Outcome::Right } else { Outcome::Silent(format!("the listing is {found:?}")) }
                }
                Err(err) => Outcome::Clear(err.to_string()),
            },
            Operation::Delete => match (store.delete("cell").await, self.stored("cell")) {
                (Ok(()), None) => Outcome::Right,
                (Ok(()), Some(_)) => Outcome::Silent("it is said to be deleted, and is there".into()),
                (Err(err), _) => Outcome::Clear(err.to_string()),
            },
            other => unreachable!("{other:?} has no row"),
        }
    }

    /// After a write there is the new content or, if it failed, what was there; never anything between.
    fn written(&self, path: &str, result: Result<(), Error>, new: &Bytes, old: Option<&Bytes>) -> Outcome {
        let stored = self.stored(path);
        match result {
            Ok(()) if stored.as_ref() == Some(new) => Outcome::Right,
            Ok(()) => Outcome::Silent("it is said to be written, and is not".into()),
            Err(_) if stored.is_some() && stored.as_ref() != Some(new) && stored.as_ref() != old => {
                Outcome::Silent("a failed write left something else".into())
            }
            Err(err) => Outcome::Clear(err.to_string()),
        }
    }

    /// A conditional write as its callers make it: what is not clear, they read back.
    async fn settled(&self, store: &S3Store, condition: &Condition) -> Outcome {
        let result = store.put_if("cell", self.new.clone(), condition).await;
        let in_force = self.stored("cell").as_ref() == Some(&self.new);
        match result {
            Ok(_) if in_force => Outcome::Right,
            Ok(_) => Outcome::Silent("it is said to be written, and is not".into()),
            Err(Error::Conflict { .. } | Error::Ambiguous { .. }) => match self.patient.get("cell").await {
                Ok((bytes, _)) if bytes == self.new => Outcome::Right,
                Ok((bytes, _)) if bytes == self.old => Outcome::Clear("not in force, as reading back shows".into()),
                Ok(_) => Outcome::Silent("a failed write left something else".into()),
                Err(Error::NotFound { .. }) => Outcome::Clear("not in force, as reading back shows".into()),
                Err(err) => Outcome::Silent(format!("it cannot be read back: {err}")),
            },
            // A condition that was not looked at, by the words of it; so nothing may have happened.
            Err(err) if in_force => Outcome::Silent(format!("in force, and yet {err}")),
            Err(err) => Outcome::Clear(err.to_string()),
        }
    }

    /// As heads and manifests are read, by their frame, and as files are, by ranges and a checksum.
    async fn read(&self, store: &S3Store) -> Outcome {
        let wanted = frame::decode::<String>(ObjectKind::Manifest, "cell", &self.old).unwrap();
        let framed = match store.get("cell").await {
            Ok((bytes, _)) => match frame::decode::<String>(ObjectKind::Manifest, "cell", &bytes) {
                Ok(text) if text == wanted => Outcome::Right,
                Ok(_) => Outcome::Silent("another text".into()),
                Err(err) => Outcome::Clear(err.to_string()),
            },
            Err(err) => Outcome::Clear(err.to_string()),
        };
        let length = self.old.len() as u64;
        let ranged = match store.get_range("cell", 0..length).await {
            Ok(bytes) if bytes == self.old => Outcome::Right,
            Ok(bytes) if bytes.len() as u64 == length && crc32c::crc32c(&bytes) == crc32c::crc32c(&self.old) => {
                Outcome::Silent("other bytes of the same checksum".into())
            }
            Ok(_) => Outcome::Clear("its length or checksum is not the recorded one".into()),
            Err(err) => Outcome::Clear(err.to_string()),
        };
        if framed == Outcome::Right { ranged } else { framed }
    }
}
