//! `memory.rows`: a snapshot of the memory backend as one file.
//!
//! ```text
//! file    magic "FOREBAY\n" · u32 format version, 1 · block...
//! block   u32 payload length · u32 crc32c · payload
//! payload record...
//! record  1 · u32 table · u8 length, name of the merge function, empty if none
//!         2 · u32 length, key · u32 length, row                 (of the last table named)
//!         3 · u64 tables · u64 rows                             (the end; nothing follows)
//! ```
//! Numbers are little endian. A checksum continues that of the block before it, the first that of the
//! file's head, so blocks can be neither lost nor exchanged unseen.
//!
//! Invariant: the file is written and read block by block; no copy of the whole is ever in memory.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::Path,
};

use bytes::Bytes;
use forebay_proto::merge::MergeFunction;

use super::{Key, Rows, Tables};
use crate::storage::{Error, Result, Table, TableId, row};

/// The file's name.
pub(super) const NAME: &str = "memory.rows";

const MAGIC: &[u8; 8] = b"FOREBAY\n";
const FORMAT: u32 = 1;
const BLOCK_BYTES: usize = 256 << 10;

const TABLE: u8 = 1;
const ROW: u8 = 2;
const END: u8 = 3;

/// Writes the tables into `dir`, durably, and returns the file's length.
pub(super) fn write(dir: &Path, tables: &Tables) -> Result<u64> {
    let path = dir.join(NAME);
    let failed = |err: io::Error| Error::io(&path, "write", &err);
    let length = write_blocks(&path, tables).map_err(failed)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed)?;
    Ok(length)
}

/// Reads the tables of a file, or says what is wrong with it.
pub(super) fn read(path: &Path) -> Result<Tables> {
    read_blocks(path).map_err(|err| match err {
        ReadError::Io(err) => Error::io(path, "read", &err),
        ReadError::Damage(detail) => Error::corrupt(path, detail),
    })
}

fn write_blocks(path: &Path, tables: &Tables) -> io::Result<u64> {
    let mut out = BlockWriter::create(path)?;
    let mut written = 0_u64;
    for rows in tables.values() {
        let name = rows.table.merge.map(MergeFunction::name).unwrap_or_default();
        out.block.push(TABLE);
        out.block.extend(rows.table.id.0.to_le_bytes());
        out.block.push(u8::try_from(name.len()).map_err(io::Error::other)?);
        out.block.extend(name.as_bytes());
        for (key, row) in &rows.map {
            if row::expired_by(row, rows.given_up_ms) {
                continue;
            }
            written += 1;
            out.block.push(ROW);
            for bytes in [&key[..], row] {
                out.block.extend(u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes());
                out.block.extend(bytes);
            }
            if out.block.len() >= BLOCK_BYTES {
                out.end_block()?;
            }
        }
    }
    out.block.push(END);
    out.block.extend((tables.len() as u64).to_le_bytes());
    out.block.extend(written.to_le_bytes());
    out.end_block()?;
    out.file.sync_all()?;
    Ok(out.length)
}

struct BlockWriter {
    file: File,
    length: u64,
    checksum: u32,
    block: Vec<u8>,
}

impl BlockWriter {
    fn create(path: &Path) -> io::Result<Self> {
        let head = [&MAGIC[..], &FORMAT.to_le_bytes()].concat();
        let mut file = File::create_new(path)?;
        file.write_all(&head)?;
        let block = Vec::with_capacity(BLOCK_BYTES + 4096);
        Ok(Self { file, length: head.len() as u64, checksum: crc32c::crc32c(&head), block })
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.checksum = crc32c::crc32c_append(self.checksum, &self.block);
        self.file.write_all(&u32::try_from(self.block.len()).map_err(io::Error::other)?.to_le_bytes())?;
        self.file.write_all(&self.checksum.to_le_bytes())?;
        self.file.write_all(&self.block)?;
        self.length += 8 + self.block.len() as u64;
        self.block.clear();
        Ok(())
    }
}

enum ReadError {
    Io(io::Error),
    Damage(String),
}

impl From<io::Error> for ReadError {
    fn from(err: io::Error) -> Self {
        match err.kind() {
            io::ErrorKind::UnexpectedEof => damage("it ends too early"),
            _ => Self::Io(err),
        }
    }
}

fn damage(detail: impl Into<String>) -> ReadError {
    ReadError::Damage(detail.into())
}

fn read_blocks(path: &Path) -> Result<Tables, ReadError> {
    let mut file = File::open(path)?;
    let mut left = fs::metadata(path)?.len();
    let mut head = [0; 12];
    file.read_exact(&mut head)?;
    left = left.saturating_sub(12);
    if head[..8] != MAGIC[..] {
        return Err(damage("it is not a snapshot of the memory backend"));
    }
    let format = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
    if format != FORMAT {
        return Err(damage(format!("format version {format} is unknown to this server, which reads {FORMAT}")));
    }
    let mut reader = Reader::default();
    let mut checksum = crc32c::crc32c(&head);
    let mut block = Vec::new();
    while left > 0 {
        let mut sums = [0; 8];
        file.read_exact(&mut sums)?;
        let (length, expected) = sums.split_at(4);
        let length = u64::from(u32_of(length));
        left = left.saturating_sub(8);
        // Checked before the allocation: a damaged length must not ask for gigabytes.
        left = left.checked_sub(length).ok_or_else(|| damage("a block ends after the file"))?;
        block.clear();
        (&mut file).take(length).read_to_end(&mut block)?;
        checksum = crc32c::crc32c_append(checksum, &block);
        if checksum != u32_of(expected) {
            return Err(damage("a block does not have its checksum"));
        }
        reader.records(&block)?;
    }
    reader.finish()
}

#[derive(Default)]
struct Reader {
    tables: Tables,
    current: Option<Rows>,
    rows: u64,
    ended: bool,
}

impl Reader {
    fn records(&mut self, block: &[u8]) -> Result<(), ReadError> {
        let mut rest = block;
        while let Some(tag) = rest.split_off_first() {
            if self.ended {
                return Err(damage("something follows its end"));
            }
            match *tag {
                TABLE => self.table(&mut rest)?,
                ROW => self.row(&mut rest)?,
                END => {
                    self.close_table();
                    let (tables, rows) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
                    if (tables, rows) != (self.tables.len() as u64, self.rows) {
                        return Err(damage("its counts do not agree with its rows"));
                    }
                    self.ended = true;
                }
                tag => return Err(damage(format!("record kind {tag} is unknown to this server"))),
            }
        }
        Ok(())
    }

    fn table(&mut self, rest: &mut &[u8]) -> Result<(), ReadError> {
        self.close_table();
        let id = TableId(u32_of(take(rest, 4)?));
        let length = usize::from(take(rest, 1)?[0]);
        let name = String::from_utf8_lossy(take(rest, length)?).into_owned();
        let merge = match name.as_str() {
            "" => None,
            name => Some(
                MergeFunction::parse(name)
                    .ok_or_else(|| damage(format!("merge function {name} of table {id} is unknown to this server")))?,
            ),
        };
        self.current = Some(Rows::new(Table { id, merge }));
        Ok(())
    }

    fn row(&mut self, rest: &mut &[u8]) -> Result<(), ReadError> {
        let length = u32_of(take(rest, 4)?) as usize;
        let key = take(rest, length)?;
        let length = u32_of(take(rest, 4)?) as usize;
        let row = take(rest, length)?;
        let current = self.current.as_mut().ok_or_else(|| damage("a row comes before its table"))?;
        // Writes refuse such rows, and a fold relies on it.
        if current.table.merge.is_some() && row::decode(row).is_err() {
            return Err(damage(format!("a row of table {} has no valid header", current.table.id)));
        }
        current.map.insert(Key::from(key), Bytes::copy_from_slice(row));
        self.rows += 1;
        Ok(())
    }

    fn close_table(&mut self) {
        if let Some(rows) = self.current.take() {
            self.tables.insert(rows.table.id, rows);
        }
    }

    fn finish(self) -> Result<Tables, ReadError> {
        if self.ended { Ok(self.tables) } else { Err(damage("it ends too early")) }
    }
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], ReadError> {
    rest.split_off(..length).ok_or_else(|| damage("a record ends after its block"))
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, ReadError> {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(take(rest, 8)?);
    Ok(u64::from_le_bytes(bytes))
}

/// Of a slice of four bytes.
fn u32_of(bytes: &[u8]) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(bytes);
    u32::from_le_bytes(word)
}
