//! Files as objects: small ones in one request, large ones in parts.

use std::{fs::File, io::Read, path::Path};

use bytes::Bytes;
use futures::{StreamExt, stream::FuturesUnordered};
use object_store::{ObjectStoreExt, PutPayload};

use super::{
    super::objects::{ObjectStore, Result},
    OtherStore,
};

/// What Google takes; Azure takes more.
const PARTS_MAX: u64 = 10_000;

impl OtherStore {
    pub(super) async fn upload(&self, path: &str, file: &Path) -> Result<()> {
        let location = self.location(path)?;
        let unreadable = |err| self.refused(path, format!("cannot read {}: {err}", file.display()));
        let file = file.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let file = File::open(file)?;
            Ok((file.metadata()?.len(), file))
        });
        let (length, mut file) = joined(opened.await).map_err(unreadable)?;
        let part_size = self.config.part_size.as_u64().max(length.div_ceil(PARTS_MAX));
        if length <= part_size {
            let _memory = self.parts.acquire().await.expect("never closed");
            let (_, bytes) = read(file, length).await.map_err(unreadable)?;
            return self.put(path, bytes).await;
        }
        let mut upload = self.repeating.put_multipart(&location).await.map_err(|err| self.error(path, &err))?;
        let mut under_way = FuturesUnordered::new();
        let mut left = length;
        let sent = loop {
            if left == 0 && under_way.is_empty() {
                break Ok(());
            }
            if left > 0 {
                let memory = self.parts.acquire();
                // A part that is done makes room; waiting for room alone could wait for one's own parts.
                tokio::select! {
                    biased;
                    Some(done) = under_way.next() => match done {
                        Ok(()) => continue,
                        Err(err) => break Err(self.error(path, &err)),
                    },
                    memory = memory => {
                        let memory = memory.expect("never closed");
                        let wanted = left.min(part_size);
                        let bytes = match read(file, wanted).await {
                            Ok((back, bytes)) => {
                                file = back;
                                bytes
                            }
                            Err(err) => break Err(unreadable(err)),
                        };
                        left -= wanted;
                        let part = upload.put_part(PutPayload::from_bytes(bytes));
                        under_way.push(async move {
                            let _memory = memory;
                            part.await
                        });
                    }
                }
            } else if let Some(Err(err)) = under_way.next().await {
                break Err(self.error(path, &err));
            }
        };
        drop(under_way);
        let result = match sent {
            Ok(()) => upload.complete().await.map(drop).map_err(|err| self.error(path, &err)),
            Err(err) => Err(err),
        };
        if result.is_err()
            && let Err(err) = upload.abort().await
        {
            let error = super::chain(&err);
            tracing::warn!(path, error, "upload not aborted: its parts stay until the bucket's lifecycle removes them");
        }
        result
    }
}

/// Reads exactly `length` bytes; a file that became shorter is an error.
async fn read(mut file: File, length: u64) -> std::io::Result<(File, Bytes)> {
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; length as usize];
        file.read_exact(&mut bytes)?;
        Ok((file, bytes.into()))
    });
    joined(read.await)
}

fn joined<T>(result: Result<std::io::Result<T>, tokio::task::JoinError>) -> std::io::Result<T> {
    result.map_err(std::io::Error::other)?
}
