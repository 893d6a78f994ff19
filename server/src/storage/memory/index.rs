//! `memory.rows`: which segments a snapshot of the memory backend consists of. Format version 2.
//!
//! ```text
//! record  5 · identity                                          (of the snapshot; the first record)
//!         1 · u32 table · u8 length, name of the merge function, empty if none
//!         4 · u32 length, first key · identity · u64 length of the file · u32 crc32c of its last block
//!         3 · u64 tables · u64 segments                         (the end; nothing follows)
//! identity  u128 origin · u64 number
//! ```
//! A segment's rows are in a file that is named by its identity. It ends where the next of its table starts.

use std::{fs::File, io, path::Path};

use super::{
    Key, Rows, Tables,
    blocks::{BlockWriter, Blocks, Fault, Sum, damage, take, take_bytes, take_table, take_u32, take_u64},
    rows::{self, Bounds},
    segments::{Identity, Marks, Segment, Segments, Written, row_bytes, rows_between},
};
use crate::storage::{Result, Table, TableId};

/// The file's name.
pub(super) const NAME: &str = "memory.rows";

const FORMAT: u32 = 2;

const TABLE: u8 = 1;
const END: u8 = 3;
const SEGMENT: u8 = 4;
const WHOLE: u8 = 5;

/// Name of a segment's file.
pub(super) fn file_name(segment: Identity) -> String {
    format!("{segment}.rows")
}

/// A segment that is in a file.
pub(super) struct Entry<'a> {
    pub(super) start: &'a Key,
    pub(super) identity: Identity,
    pub(super) sum: Sum,
}

/// Writes the file, durably.
pub(super) fn write(dir: &Path, whole: Identity, tables: &[(Table, Vec<Entry<'_>>)]) -> io::Result<Sum> {
    let mut out = BlockWriter::create(&dir.join(NAME), FORMAT)?;
    out.block.push(WHOLE);
    push_identity(&mut out.block, whole);
    for (table, segments) in tables {
        out.block.push(TABLE);
        out.table(*table)?;
        for segment in segments {
            out.block.push(SEGMENT);
            out.bytes(segment.start)?;
            push_identity(&mut out.block, segment.identity);
            out.block.extend(segment.sum.length.to_le_bytes());
            out.block.extend(segment.sum.checksum.to_le_bytes());
            out.end_record()?;
        }
    }
    out.block.push(END);
    out.block.extend((tables.len() as u64).to_le_bytes());
    let segments: usize = tables.iter().map(|(_, segments)| segments.len()).sum();
    out.block.extend((segments as u64).to_le_bytes());
    let (file, sum) = out.finish()?;
    file.sync_all()?;
    File::open(dir)?.sync_all()?;
    Ok(sum)
}

/// Reads the snapshot in a directory; without the file there is nothing.
pub(super) fn read(dir: &Path) -> Result<(Tables, Marks)> {
    let path = dir.join(NAME);
    if !path.exists() {
        return Ok((Tables::new(), Marks::new(None)));
    }
    let mut tables = Tables::new();
    let blocks = Blocks::open(&path).map_err(|fault| fault.at(&path))?;
    if blocks.format != FORMAT {
        // One file of all rows, as earlier builds wrote it: it says nothing of segments.
        let mut marks = Marks::new(None);
        rows::read(blocks, None, &mut marks, &mut tables).map_err(|fault| fault.at(&path))?;
        for rows in tables.values_mut() {
            rows.segments = Segments::of(&rows.map, &mut marks);
        }
        return Ok((tables, marks));
    }
    let mut index = Index::default();
    blocks.each(|block| index.records(block)).map_err(|fault| fault.at(&path))?;
    let Index { whole: Some(whole), ended: true, tables: listed } = index else {
        return Err(damage("it ends too early").at(&path));
    };
    // Segments take the place of those that tables are made with.
    let (mut marks, mut unused) = (Marks::new(Some(whole)), Marks::new(None));
    for (table, segments) in listed {
        tables.insert(table.id, Rows::new(table, &mut unused));
        let read = read_segments(dir, table.id, &segments, &mut unused, &mut tables)?;
        if let Some(rows) = tables.get_mut(&table.id) {
            rows.segments = Segments::read(read, &mut marks);
        }
    }
    Ok((tables, marks))
}

type Listed = (Key, Identity, Sum);

fn read_segments(
    dir: &Path,
    table: TableId,
    segments: &[Listed],
    marks: &mut Marks,
    tables: &mut Tables,
) -> Result<Vec<(Key, Segment)>> {
    let mut read = Vec::with_capacity(segments.len());
    for (place, (start, identity, sum)) in segments.iter().enumerate() {
        let path = dir.join(file_name(*identity));
        let end = segments.get(place + 1).map(|(end, ..)| end);
        let bounds = Bounds { table, start, end: end.map(|end| &end[..]) };
        let found = Blocks::open(&path).and_then(|blocks| rows::read(blocks, Some(bounds), marks, tables));
        let found = found.map_err(|fault| fault.at(&path))?;
        if found != *sum {
            return Err(damage("it is not the file that the snapshot was made of").at(&path));
        }
        let rows = tables.get(&table).into_iter().flat_map(|rows| rows_between(&rows.map, start, end));
        let bytes = rows.map(|(key, row)| row_bytes(key, row.len())).sum();
        let written = Written { path, sum: *sum, given_up_ms: i64::MIN };
        read.push((start.clone(), Segment::read(*identity, bytes, written)));
    }
    Ok(read)
}

#[derive(Default)]
struct Index {
    whole: Option<Identity>,
    tables: Vec<(Table, Vec<Listed>)>,
    ended: bool,
}

impl Index {
    fn records(&mut self, block: &[u8]) -> Result<(), Fault> {
        let mut rest = block;
        while let Some(tag) = rest.split_off_first() {
            if self.ended {
                return Err(damage("something follows its end"));
            }
            match *tag {
                WHOLE => self.whole = Some(take_identity(&mut rest)?),
                TABLE => self.tables.push((take_table(&mut rest)?, Vec::new())),
                SEGMENT => self.segment(&mut rest)?,
                END => {
                    let counts = (take_u64(&mut rest)?, take_u64(&mut rest)?);
                    let segments: usize = self.tables.iter().map(|(_, segments)| segments.len()).sum();
                    if counts != (self.tables.len() as u64, segments as u64) {
                        return Err(damage("its counts do not agree with its segments"));
                    }
                    self.ended = true;
                }
                tag => return Err(damage(format!("record kind {tag} is unknown to this server"))),
            }
        }
        Ok(())
    }

    fn segment(&mut self, rest: &mut &[u8]) -> Result<(), Fault> {
        let start = Key::from(take_bytes(rest)?);
        let identity = take_identity(rest)?;
        let sum = Sum { length: take_u64(rest)?, checksum: take_u32(rest)? };
        let (_, segments) = self.tables.last_mut().ok_or_else(|| damage("a segment comes before its table"))?;
        if segments.last().is_some_and(|(before, ..)| *before >= start) {
            return Err(damage("its segments are not in order"));
        }
        segments.push((start, identity, sum));
        Ok(())
    }
}

fn push_identity(out: &mut Vec<u8>, identity: Identity) {
    out.extend(identity.origin.to_le_bytes());
    out.extend(identity.number.to_le_bytes());
}

fn take_identity(rest: &mut &[u8]) -> Result<Identity, Fault> {
    let mut origin = [0; 16];
    origin.copy_from_slice(take(rest, 16)?);
    Ok(Identity { origin: u128::from_le_bytes(origin), number: take_u64(rest)? })
}
