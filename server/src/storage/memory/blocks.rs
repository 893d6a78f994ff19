//! The framing of the memory backend's files.
//!
//! ```text
//! file    magic "FOREBAY\n" · u32 format version · block...
//! block   u32 payload length · u32 crc32c · payload
//! ```
//! Numbers are little endian. A checksum continues that of the block before it, the first that of the
//! file's head, so blocks can be neither lost nor exchanged unseen.
//!
//! Invariant: a file is written and read block by block; no copy of the whole is ever in memory.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::Path,
};

use forebay_proto::merge::MergeFunction;

use crate::storage::{Error, Table, TableId};

const MAGIC: &[u8; 8] = b"FOREBAY\n";
const BLOCK_BYTES: usize = 256 << 10;

/// What a file is known by: its length and the checksum of its last block, which continues all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) length: u64,
    pub(super) checksum: u32,
}

/// A file in the making.
pub(super) struct BlockWriter {
    file: File,
    sum: Sum,
    /// What is written of the present block.
    pub(super) block: Vec<u8>,
}

impl BlockWriter {
    pub(super) fn create(path: &Path, format: u32) -> io::Result<Self> {
        let head = [&MAGIC[..], &format.to_le_bytes()].concat();
        let mut file = File::create_new(path)?;
        file.write_all(&head)?;
        let sum = Sum { length: head.len() as u64, checksum: crc32c::crc32c(&head) };
        Ok(Self { file, sum, block: Vec::with_capacity(4096) })
    }

    /// Appends bytes with their length before them.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.block.extend(u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes());
        self.block.extend(bytes);
        Ok(())
    }

    /// Appends a table's id and the name of its merge function.
    pub(super) fn table(&mut self, table: Table) -> io::Result<()> {
        let name = table.merge.map(MergeFunction::name).unwrap_or_default();
        self.block.extend(table.id.0.to_le_bytes());
        self.block.push(u8::try_from(name.len()).map_err(io::Error::other)?);
        self.block.extend(name.as_bytes());
        Ok(())
    }

    /// Ends the block if it is long enough; call it between records.
    pub(super) fn end_record(&mut self) -> io::Result<()> {
        if self.block.len() >= BLOCK_BYTES { self.end_block() } else { Ok(()) }
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.sum.checksum = crc32c::crc32c_append(self.sum.checksum, &self.block);
        self.file.write_all(&u32::try_from(self.block.len()).map_err(io::Error::other)?.to_le_bytes())?;
        self.file.write_all(&self.sum.checksum.to_le_bytes())?;
        self.file.write_all(&self.block)?;
        self.sum.length += 8 + self.block.len() as u64;
        self.block.clear();
        Ok(())
    }

    /// Ends the file.
    pub(super) fn finish(mut self) -> io::Result<(File, Sum)> {
        self.end_block()?;
        Ok((self.file, self.sum))
    }
}

/// What is wrong with a file.
pub(super) enum Fault {
    Io(io::Error),
    Damage(String),
}

impl Fault {
    /// The backend's error about the file at `path`.
    pub(super) fn at(self, path: &Path) -> Error {
        match self {
            Self::Io(err) => Error::io(path, "read", &err),
            Self::Damage(detail) => Error::corrupt(path, detail),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::UnexpectedEof => damage("it ends too early"),
            io::ErrorKind::NotFound => damage("it is missing"),
            _ => Self::Io(err),
        }
    }
}

pub(super) fn damage(detail: impl Into<String>) -> Fault {
    Fault::Damage(detail.into())
}

/// A file being read.
pub(super) struct Blocks {
    file: File,
    left: u64,
    sum: Sum,
    /// The file's format version.
    pub(super) format: u32,
}

impl Blocks {
    pub(super) fn open(path: &Path) -> Result<Self, Fault> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut head = [0; 12];
        file.read_exact(&mut head)?;
        if head[..8] != MAGIC[..] {
            return Err(damage("it is not a file of the memory backend"));
        }
        let format = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let sum = Sum { length, checksum: crc32c::crc32c(&head) };
        Ok(Self { file, left: length - 12, sum, format })
    }

    /// Reads the blocks, each verified before it is shown.
    pub(super) fn each(mut self, mut visit: impl FnMut(&[u8]) -> Result<(), Fault>) -> Result<Sum, Fault> {
        let mut block = Vec::new();
        while self.left > 0 {
            let mut sums = [0; 8];
            self.file.read_exact(&mut sums)?;
            let mut sums = &sums[..];
            let (length, expected) = (u64::from(take_u32(&mut sums)?), take_u32(&mut sums)?);
            self.left = self.left.saturating_sub(8);
            // Checked before the allocation: a damaged length must not ask for gigabytes.
            self.left = self.left.checked_sub(length).ok_or_else(|| damage("a block ends after the file"))?;
            block.clear();
            (&mut self.file).take(length).read_to_end(&mut block)?;
            self.sum.checksum = crc32c::crc32c_append(self.sum.checksum, &block);
            if self.sum.checksum != expected {
                return Err(damage("a block does not have its checksum"));
            }
            visit(&block)?;
        }
        Ok(self.sum)
    }
}

pub(super) fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], Fault> {
    rest.split_off(..length).ok_or_else(|| damage("a record ends after its block"))
}

/// Takes bytes with their length before them.
pub(super) fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Fault> {
    let length = take_u32(rest)? as usize;
    take(rest, length)
}

pub(super) fn take_u32(rest: &mut &[u8]) -> Result<u32, Fault> {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(take(rest, 4)?);
    Ok(u32::from_le_bytes(bytes))
}

pub(super) fn take_u64(rest: &mut &[u8]) -> Result<u64, Fault> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(take(rest, 8)?);
    Ok(u64::from_le_bytes(bytes))
}

pub(super) fn take_table(rest: &mut &[u8]) -> Result<Table, Fault> {
    let id = TableId(take_u32(rest)?);
    let length = usize::from(take(rest, 1)?[0]);
    let name = String::from_utf8_lossy(take(rest, length)?).into_owned();
    let merge = match name.as_str() {
        "" => None,
        name => Some(
            MergeFunction::parse(name)
                .ok_or_else(|| damage(format!("merge function {name} of table {id} is unknown to this server")))?,
        ),
    };
    Ok(Table { id, merge })
}
