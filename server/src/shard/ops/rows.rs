//! The rows of a state: as they are, and as they will be once the batch so far is applied.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
};

use bytes::Bytes;
use forebay_proto::{reason::Refused, v1::ErrorReason as Reason};

use super::{State, failed};
use crate::{
    seeded::{self, Bug},
    shard::ttl::Clocks,
    storage::{self, Read, Write, Writes, merge, row},
};

/// Most bytes of rows that one write operation looks at.
const LOOK_BYTES_MAX: usize = 64 << 20;

/// What a scan does with a row: key, header, payload.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &row::Header, &[u8]) -> Result<ControlFlow<()>, Refused>;

/// What [`Rows::get_all`] does with the place of each key and its row.
pub type Shown<'a> = &'a mut dyn FnMut(usize, Option<(row::Header, &[u8])>) -> Result<(), Refused>;

/// Rows at one moment; those that have expired by then are not there.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// The rows.
    pub read: &'a dyn Read,
    /// The moment.
    pub clocks: Clocks,
}

impl Rows<'_> {
    /// Reads a row; absent if its table was never written.
    pub fn get(&self, state: &State, row_key: &[u8]) -> Result<Option<(row::Header, Bytes)>, Refused> {
        match self.read.get(state.table(), row_key) {
            Ok(None) | Err(storage::Error::NoTable(_)) => Ok(None),
            Ok(Some(stored)) => self.shown(state, stored),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Reads rows of a state, all at once, and shows each with its place; a refusal tells the place.
    pub fn get_all(&self, state: &State, row_keys: &[&[u8]], show: Shown<'_>) -> Result<(), (usize, Refused)> {
        let mut refused = None;
        let mut each = |place: usize, stored: Option<&[u8]>| {
            if refused.is_some() {
                return;
            }
            let row = stored.map(|stored| decode(state, stored)).transpose();
            let there = row.map(|row| row.filter(|(header, _)| state.ttl().shows(&self.clocks, header)));
            refused = there.and_then(|row| show(place, row)).err().map(|refused| (place, refused));
        };
        match self.read.multi_get(state.table(), row_keys, &mut each) {
            Ok(()) => refused.map_or(Ok(()), Err),
            Err(storage::Error::NoTable(_)) => {
                (0..row_keys.len()).try_for_each(|place| show(place, None).map_err(|refused| (place, refused)))
            }
            Err(error) => Err((0, failed(&error))),
        }
    }

    /// Visits the rows with `start <= key < end` in order.
    pub fn scan(&self, state: &State, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), Refused> {
        self.scan_stored(state, start, end, &mut |row_key, header, payload| {
            if state.ttl().shows(&self.clocks, header) {
                visit(row_key, header, payload)
            } else {
                Ok(ControlFlow::Continue(()))
            }
        })
    }

    /// Visits the rows with `start <= key < end` in order, and those that have expired but are not cleaned up
    /// yet, too.
    pub fn scan_stored(&self, state: &State, start: &[u8], end: &[u8], visit: Visit<'_>) -> Result<(), Refused> {
        let mut refused = None;
        let mut each = |row_key: &[u8], stored: &[u8]| {
            let visited = decode(state, stored).and_then(|(header, payload)| visit(row_key, &header, payload));
            visited.unwrap_or_else(|error| {
                refused = Some(error);
                ControlFlow::Break(())
            })
        };
        match self.read.scan(state.table(), start, end, &mut each) {
            Ok(()) | Err(storage::Error::NoTable(_)) => refused.map_or(Ok(()), Err),
            Err(error) => Err(failed(&error)),
        }
    }

    fn shown(&self, state: &State, stored: Bytes) -> Result<Option<(row::Header, Bytes)>, Refused> {
        let (header, payload) = decode(state, &stored)?;
        let payload = stored.slice_ref(payload);
        Ok(state.ttl().shows(&self.clocks, &header).then_some((header, payload)))
    }

    /// Reads a row as it will be once `pending` is applied.
    pub fn get_after(
        &self,
        pending: &Writes,
        state: &State,
        row_key: &[u8],
    ) -> Result<Option<(row::Header, Bytes)>, Refused> {
        // What stands there so far: `None` as long as no write says so.
        let mut base: Option<Option<&[u8]>> = None;
        let mut operands: Vec<&[u8]> = Vec::new();
        for write in pending.iter().filter(|write| write.table() == state.table()) {
            match write {
                Write::Put { key, value, .. } if key == row_key => {
                    base = Some(Some(value));
                    operands.clear();
                }
                Write::Merge { key, value, .. } if key == row_key => operands.push(value),
                Write::Delete { key, .. } if key == row_key => {
                    base = Some(None);
                    operands.clear();
                }
                Write::DeleteRange { start, end, .. } if start <= row_key && row_key < end => {
                    base = Some(None);
                    operands.clear();
                }
                _ => {}
            }
        }
        let stored;
        let base = match base {
            Some(base) => base,
            None => {
                stored = match self.read.get(state.table(), row_key) {
                    Err(storage::Error::NoTable(_)) => None,
                    read => read.map_err(|error| failed(&error))?,
                };
                stored.as_deref()
            }
        };
        let row = match (base, state.merge()) {
            (base, Some(function)) if !operands.is_empty() => {
                Some(merge::fold(function, base, operands).map_err(|error| corrupt(state, error))?)
            }
            (base, _) => base.map(<[u8]>::to_vec),
        };
        row.map_or(Ok(None), |row| self.shown(state, row.into()))
    }

    /// The keys of all rows with `start <= key < end`, expired ones and those that `pending` writes among them;
    /// `None` if there are more than `most`.
    pub fn keys_until(
        &self,
        pending: &Writes,
        state: &State,
        (start, end): (&[u8], &[u8]),
        most: usize,
    ) -> Result<Option<BTreeSet<Vec<u8>>>, Refused> {
        let mut keys = BTreeSet::new();
        let scanned = self.read.scan(state.table(), start, end, &mut |row_key, _| {
            keys.insert(row_key.to_vec());
            if keys.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match scanned {
            Ok(()) | Err(storage::Error::NoTable(_)) => {}
            Err(error) => return Err(failed(&error)),
        }
        let seen = !seeded::is(Bug::ClearBlindToBatch);
        for write in pending.iter().filter(|write| seen && write.table() == state.table()) {
            if let Write::Put { key, .. } | Write::Merge { key, .. } = write
                && start <= key
                && key < end
            {
                keys.insert(key.to_vec());
            }
        }
        Ok((keys.len() <= most).then_some(keys))
    }

    /// Reads the rows with `start <= key < end` as they will be once `pending` is applied.
    pub fn rows_after(
        &self,
        pending: &Writes,
        state: &State,
        (start, end): (&[u8], &[u8]),
    ) -> Result<BTreeMap<Vec<u8>, (row::Header, Bytes)>, Refused> {
        let inside = |key: &[u8]| start <= key && key < end;
        let touched = pending.iter().any(|write| {
            write.table() == state.table()
                && match write {
                    Write::Put { key, .. } | Write::Merge { key, .. } | Write::Delete { key, .. } => inside(key),
                    Write::DeleteRange { start: from, end: to, .. } => from < end && start < to,
                }
        });
        let mut rows = BTreeMap::new();
        let mut bytes = 0;
        self.scan(state, start, end, &mut |row_key, header, payload| {
            bytes += row_key.len() + payload.len();
            if bytes > LOOK_BYTES_MAX {
                return Err(too_much(state));
            }
            rows.insert(row_key.to_vec(), (*header, Bytes::copy_from_slice(payload)));
            Ok(ControlFlow::Continue(()))
        })?;
        if !touched {
            return Ok(rows);
        }
        let mut keys: Vec<Vec<u8>> = rows.keys().cloned().collect();
        for write in pending.iter().filter(|write| write.table() == state.table()) {
            if let Write::Put { key, .. } | Write::Merge { key, .. } = write
                && inside(key)
            {
                keys.push(key.to_vec());
            }
        }
        keys.sort();
        keys.dedup();
        let mut after = BTreeMap::new();
        for key in keys {
            if let Some(row) = self.get_after(pending, state, &key)? {
                after.insert(key, row);
            }
        }
        Ok(after)
    }
}

/// Takes a stored row apart.
pub fn decode<'a>(state: &State, stored: &'a [u8]) -> Result<(row::Header, &'a [u8]), Refused> {
    row::decode(stored).map_err(|error| corrupt(state, error))
}

fn corrupt(state: &State, error: row::RowError) -> Refused {
    let message = format!("a row of state {:?} cannot be read: {error}", state.name());
    Refused::new(Reason::RowCorrupt, message)
}

fn too_much(state: &State) -> Refused {
    let message =
        format!("the rows of state {:?} that the operation needs are over {LOOK_BYTES_MAX} bytes", state.name());
    Refused::new(Reason::ListTooLong, message)
}
