//! A shard's rows in a file that every backend and every version can read: canonical savepoints, reads of
//! snapshots.
//!
//! ```text
//! file     "FBAYROWS" · u16 format version, 1 · part head · block... · part index · trailer
//! part     u32 length · a framed message (frame.rs): CanonicalHead, CanonicalIndex
//! block    u32 compressed length · u32 length · u32 crc32c of the compressed bytes · zstd of record...
//! record   varint table · varint length, key · varint length, row
//! trailer  u64 offset of the part index · u32 crc32c of these eight bytes · "SWORYABF"
//! ```
//! Numbers are little endian; a table is a state's numeric id, 0 for the shard's own rows, which come first. A
//! block holds rows of one key group; within it rows are in the order of state, key, namespace and map key.
//!
//! Invariant: a file is written and read block by block; no copy of the whole is ever in memory.

use std::{
    fs::File,
    io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use bytes::Buf as _;
use forebay_proto::{
    key_group::{KeyGroup, KeyGroupRange},
    v1,
};
use prost::encoding::{decode_varint, encode_varint};

use super::frame::{self, ObjectKind};

const MAGIC: &[u8; 8] = b"FBAYROWS";
const END: &[u8; 8] = b"SWORYABF";
/// Version of the layout that this build writes and reads.
pub const FORMAT: u16 = 1;
/// Rows are compressed in blocks of about this size.
const BLOCK_BYTES: usize = 256 << 10;
/// One row may be a value of the largest size; a damaged length must not ask for more.
const BLOCK_BYTES_MAX: u32 = 256 << 20;
const LEVEL: i32 = 3;
const HEAD_AT: u64 = 10;
const TRAILER_BYTES: u64 = 20;

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not what was written.
    #[error("canonical file {path} is damaged: {detail}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// A later release wrote it.
    #[error("canonical file {path} has format version {found}, this build reads {FORMAT}: upgrade it")]
    Version {
        /// The file.
        path: PathBuf,
        /// The version in it.
        found: u16,
    },
    /// The disk failed.
    #[error("canonical file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
}

/// Writes a file.
pub struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    at: u64,
    block: Vec<u8>,
    group: Option<KeyGroup>,
    index: v1::CanonicalIndex,
}

impl Writer {
    /// Begins a file, which must not exist.
    pub fn create(path: &Path, head: &v1::CanonicalHead) -> Result<Self, Error> {
        let file = File::create_new(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let mut writer = Self {
            path: path.to_owned(),
            out: BufWriter::with_capacity(1 << 20, file),
            at: 0,
            block: Vec::with_capacity(BLOCK_BYTES + 4096),
            group: None,
            index: v1::CanonicalIndex::default(),
        };
        writer.write(MAGIC)?;
        writer.write(&FORMAT.to_le_bytes())?;
        writer.part(&frame::encode(ObjectKind::CanonicalHead, head))?;
        Ok(writer)
    }

    /// Adds a row of the shard as a whole; all of them come before the first of a key group.
    pub fn shard_row(&mut self, key: &[u8], row: &[u8]) -> Result<(), Error> {
        self.index.shard_rows += 1;
        self.record(0, key, row)
    }

    /// Adds a row of a state; key groups must come in order.
    pub fn row(&mut self, group: KeyGroup, table: u32, key: &[u8], row: &[u8]) -> Result<(), Error> {
        if self.group != Some(group) {
            self.end_block()?;
            self.group = Some(group);
            let group = v1::CanonicalGroup { key_group: group.into(), offset: self.at, rows: 0 };
            self.index.groups.push(group);
        }
        if let Some(last) = self.index.groups.last_mut() {
            last.rows += 1;
        }
        self.record(table, key, row)
    }

    /// Ends the file, durably, and returns its length.
    pub fn finish(mut self) -> Result<u64, Error> {
        self.end_block()?;
        let at = self.at.to_le_bytes();
        self.part(&frame::encode(ObjectKind::CanonicalIndex, &self.index.clone()))?;
        self.write(&at)?;
        self.write(&crc32c::crc32c(&at).to_le_bytes())?;
        self.write(END)?;
        let failed = |source| Error::Io { path: self.path.clone(), source };
        self.out.flush().map_err(failed)?;
        self.out.get_ref().sync_all().map_err(failed)?;
        Ok(self.at)
    }

    fn record(&mut self, table: u32, key: &[u8], row: &[u8]) -> Result<(), Error> {
        encode_varint(table.into(), &mut self.block);
        for bytes in [key, row] {
            encode_varint(bytes.len() as u64, &mut self.block);
            self.block.extend_from_slice(bytes);
        }
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> Result<(), Error> {
        if self.block.is_empty() {
            return Ok(());
        }
        let failed = |source| Error::Io { path: self.path.clone(), source };
        let packed = zstd::bulk::compress(&self.block, LEVEL).map_err(failed)?;
        let length = self.block.len() as u32;
        self.write(&(packed.len() as u32).to_le_bytes())?;
        self.write(&length.to_le_bytes())?;
        self.write(&crc32c::crc32c(&packed).to_le_bytes())?;
        self.write(&packed)?;
        self.block.clear();
        Ok(())
    }

    fn part(&mut self, framed: &[u8]) -> Result<(), Error> {
        self.write(&(framed.len() as u32).to_le_bytes())?;
        self.write(framed)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|source| Error::Io { path: self.path.clone(), source })
    }
}

/// Reads a file.
pub struct Reader {
    path: PathBuf,
    file: File,
    head: v1::CanonicalHead,
    index: v1::CanonicalIndex,
    blocks: (u64, u64),
}

/// A row: its table, 0 for the shard's own; its key; the row.
pub type Row<'a> = (u32, &'a [u8], &'a [u8]);

impl Reader {
    /// Opens a file and reads its head and index.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut read = Raw { path, file: File::open(path).map_err(|source| Error::Io { path: path.into(), source })? };
        let length = read.length()?;
        if length < HEAD_AT + TRAILER_BYTES {
            return Err(read.damaged(format!("it has {length} bytes")));
        }
        let start = read.bytes(0, HEAD_AT)?;
        if start[..8] != MAGIC[..] {
            return Err(read.damaged("it does not start as one"));
        }
        let found = u16::from_le_bytes([start[8], start[9]]);
        if found != FORMAT {
            return Err(Error::Version { path: path.to_owned(), found });
        }
        let trailer = read.bytes(length - TRAILER_BYTES, TRAILER_BYTES)?;
        let mut rest = &trailer[..];
        let (index_at, crc) = (rest.get_u64_le(), rest.get_u32_le());
        if rest != END || crc != crc32c::crc32c(&trailer[..8]) || index_at > length - TRAILER_BYTES {
            return Err(read.damaged("its end is not as it was written"));
        }
        let (head, blocks_at) = read.part(ObjectKind::CanonicalHead, HEAD_AT, length)?;
        let (index, end) = read.part(ObjectKind::CanonicalIndex, index_at, length)?;
        if end != length - TRAILER_BYTES || blocks_at > index_at {
            return Err(read.damaged("its parts do not follow each other"));
        }
        Ok(Self { path: path.to_owned(), file: read.file, head, index, blocks: (blocks_at, index_at) })
    }

    /// What the file holds.
    pub fn head(&self) -> &v1::CanonicalHead {
        &self.head
    }

    /// Visits the shard's own rows.
    pub fn shard_rows(&mut self, visit: &mut dyn FnMut(Row<'_>) -> Result<(), Error>) -> Result<(), Error> {
        let end = self.index.groups.first().map_or(self.blocks.1, |group| group.offset);
        self.rows_between(self.blocks.0, end, self.index.shard_rows, visit)
    }

    /// Visits the rows of a range of key groups, in the file's order.
    pub fn rows(
        &mut self,
        range: KeyGroupRange,
        visit: &mut dyn FnMut(Row<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let within = |group: &v1::CanonicalGroup| (range.start()..range.end()).contains(&group.key_group);
        let groups = self.index.groups.clone();
        for (index, group) in groups.iter().enumerate().filter(|(_, group)| within(group)) {
            let end = groups.get(index + 1).map_or(self.blocks.1, |next| next.offset);
            let prefix = (group.key_group as u16).to_be_bytes();
            let path = self.path.clone();
            self.rows_between(group.offset, end, group.rows, &mut |row| {
                if row.1.starts_with(&prefix) {
                    return visit(row);
                }
                let detail = format!("a row of another key group is among those of {}", group.key_group);
                Err(Error::Damaged { path: path.clone(), detail })
            })?;
        }
        Ok(())
    }

    fn rows_between(
        &mut self,
        mut at: u64,
        end: u64,
        expected: u64,
        visit: &mut dyn FnMut(Row<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut read = Raw {
            path: &self.path,
            file: self.file.try_clone().map_err(|source| Error::Io { path: self.path.clone(), source })?,
        };
        let mut rows = 0;
        while at < end {
            let head = read.bytes(at, 12)?;
            let mut fields = &head[..];
            let (packed, length, crc) = (fields.get_u32_le(), fields.get_u32_le(), fields.get_u32_le());
            at += 12;
            // Checked before the allocation.
            if at + u64::from(packed) > end || length > BLOCK_BYTES_MAX {
                return Err(read.damaged("a block is longer than its place"));
            }
            let packed = read.bytes(at, packed.into())?;
            at += packed.len() as u64;
            if crc32c::crc32c(&packed) != crc {
                return Err(read.damaged("a block does not have its checksum"));
            }
            let block = zstd::bulk::decompress(&packed, length as usize);
            let block = block.map_err(|err| read.damaged(format!("a block cannot be decompressed: {err}")))?;
            if block.len() != length as usize {
                return Err(read.damaged("a block does not have its length"));
            }
            let mut rest = &block[..];
            while !rest.is_empty() {
                let row = record(&mut rest).ok_or_else(|| read.damaged("a record ends after its block"))?;
                rows += 1;
                visit(row)?;
            }
        }
        if rows != expected {
            return Err(read.damaged(format!("{rows} rows are where its index says {expected}")));
        }
        Ok(())
    }
}

fn record<'a>(rest: &mut &'a [u8]) -> Option<Row<'a>> {
    let table = u32::try_from(decode_varint(rest).ok()?).ok()?;
    let mut bytes = || {
        let length = usize::try_from(decode_varint(rest).ok()?).ok()?;
        rest.split_off(..length)
    };
    Some((table, bytes()?, bytes()?))
}

/// A file, read by place.
struct Raw<'a> {
    path: &'a Path,
    file: File,
}

impl Raw<'_> {
    fn length(&self) -> Result<u64, Error> {
        Ok(self.file.metadata().map_err(|source| self.io(source))?.len())
    }

    fn bytes(&mut self, at: u64, length: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; length as usize];
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(&mut bytes));
        read.map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => self.damaged("it ends too early"),
            _ => self.io(source),
        })?;
        Ok(bytes)
    }

    /// Reads a part, and tells where it ends.
    fn part<M: prost::Message + Default>(&mut self, kind: ObjectKind, at: u64, end: u64) -> Result<(M, u64), Error> {
        let length = u64::from((&self.bytes(at, 4)?[..]).get_u32_le());
        if at + 4 + length > end {
            return Err(self.damaged("a part is longer than the file"));
        }
        let framed = self.bytes(at + 4, length)?;
        let message = frame::decode(kind, &self.path.display().to_string(), &framed);
        Ok((message.map_err(|err| self.damaged(err.to_string()))?, at + 4 + length))
    }

    fn damaged(&self, detail: impl Into<String>) -> Error {
        Error::Damaged { path: self.path.to_owned(), detail: detail.into() }
    }

    fn io(&self, source: io::Error) -> Error {
        Error::Io { path: self.path.to_owned(), source }
    }
}

#[cfg(test)]
mod tests;
