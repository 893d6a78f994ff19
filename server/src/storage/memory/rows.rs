//! Files of rows: one for each segment of a table. Format version 1.
//!
//! ```text
//! record  1 · u32 table · u8 length, name of the merge function, empty if none
//!         2 · u32 length, key · u32 length, row                 (of the last table named)
//!         3 · u64 tables · u64 rows                             (the end; nothing follows)
//! ```
//! A file may hold several tables: earlier builds wrote a whole snapshot as one such file.

use std::{io, path::Path, sync::Arc};

use super::{
    Key, Row, Rows, Tables,
    blocks::{BlockWriter, Blocks, Fault, Sum, damage, take_bytes, take_table, take_u64},
    segments::Marks,
};
use crate::storage::{Table, TableId, row};

/// Version of the format.
pub(super) const FORMAT: u32 = 1;

const TABLE: u8 = 1;
const ROW: u8 = 2;
const END: u8 = 3;

/// Writes rows of a table into a new file, but for those that were given up.
///
/// Not synced: a file that a power loss cuts short is found out when it is read, and then the object store has it.
pub(super) fn write<'a>(
    path: &Path,
    table: Table,
    given_up_ms: i64,
    rows: impl Iterator<Item = (&'a Key, &'a Arc<Row>)>,
) -> io::Result<Sum> {
    let mut out = BlockWriter::create(path, FORMAT)?;
    let mut written = 0_u64;
    out.block.push(TABLE);
    out.table(table)?;
    for (key, row) in rows {
        let row = &**row.bytes();
        if row::expired_by(row, given_up_ms) {
            continue;
        }
        written += 1;
        out.block.push(ROW);
        out.bytes(key)?;
        out.bytes(row)?;
        out.end_record()?;
    }
    out.block.push(END);
    out.block.extend(1_u64.to_le_bytes());
    out.block.extend(written.to_le_bytes());
    Ok(out.finish()?.1)
}

/// Which rows a file may hold: of a table, from a key on, before another.
pub(super) struct Bounds<'a> {
    pub(super) table: TableId,
    pub(super) start: &'a [u8],
    pub(super) end: Option<&'a [u8]>,
}

/// Reads the rows of a file into tables.
pub(super) fn read(
    blocks: Blocks,
    bounds: Option<Bounds<'_>>,
    marks: &mut Marks,
    into: &mut Tables,
) -> Result<Sum, Fault> {
    if blocks.format != FORMAT {
        let found = blocks.format;
        return Err(damage(format!("format version {found} of rows is unknown to this server, which reads {FORMAT}")));
    }
    let mut reader = Reader { into, marks, bounds, current: None, tables: 0, rows: 0, ended: false };
    let sum = blocks.each(|block| reader.records(block))?;
    if reader.ended { Ok(sum) } else { Err(damage("it ends too early")) }
}

struct Reader<'a> {
    into: &'a mut Tables,
    marks: &'a mut Marks,
    bounds: Option<Bounds<'a>>,
    current: Option<TableId>,
    tables: u64,
    rows: u64,
    ended: bool,
}

impl Reader<'_> {
    fn records(&mut self, block: &[u8]) -> Result<(), Fault> {
        let mut rest = block;
        while let Some(tag) = rest.split_off_first() {
            if self.ended {
                return Err(damage("something follows its end"));
            }
            match *tag {
                TABLE => self.table(&mut rest)?,
                ROW => self.row(&mut rest)?,
                END => {
                    let (tables, rows) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
                    if (tables, rows) != (self.tables, self.rows) {
                        return Err(damage("its counts do not agree with its rows"));
                    }
                    self.ended = true;
                }
                tag => return Err(damage(format!("record kind {tag} is unknown to this server"))),
            }
        }
        Ok(())
    }

    fn table(&mut self, rest: &mut &[u8]) -> Result<(), Fault> {
        let table = take_table(rest)?;
        let known = self.into.entry(table.id).or_insert_with(|| Rows::new(table, self.marks)).table;
        if known != table {
            return Err(damage(format!("table {} folds by {:?} and {:?}", table.id, known.merge, table.merge)));
        }
        self.tables += 1;
        self.current = Some(table.id);
        Ok(())
    }

    fn row(&mut self, rest: &mut &[u8]) -> Result<(), Fault> {
        let (key, row) = (take_bytes(rest)?, take_bytes(rest)?);
        let current = self.current.and_then(|id| self.into.get_mut(&id));
        let current = current.ok_or_else(|| damage("a row comes before its table"))?;
        // Writes refuse such rows, and a fold relies on it.
        if current.table.merge.is_some() && row::decode(row).is_err() {
            return Err(damage(format!("a row of table {} has no valid header", current.table.id)));
        }
        if let Some(Bounds { table, start, end }) = &self.bounds
            && (*table != current.table.id || key < *start || end.is_some_and(|end| key >= end))
        {
            return Err(damage("a row lies outside of its segment"));
        }
        let row = Row::new(Key::from(key), 0, row);
        current.map.insert(row.key.clone(), Arc::new(row));
        self.rows += 1;
        Ok(())
    }
}
