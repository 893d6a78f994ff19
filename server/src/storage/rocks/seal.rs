//! The seal: a list of a snapshot's files, written last, that shows whether they are still whole.
//!
//! RocksDB takes a manifest cut short for one whose last write was lost, and then opens an older
//! content without a word. A snapshot's files were written to their end, so here it is damage. Files
//! that RocksDB checksums block by block as it reads them (SSTs) are held only to their length.
//!
//! ```text
//! forebay rocksdb snapshot 1
//! 000012.sst 4096
//! MANIFEST-000005 873 1a2b3c4d          (crc32c of the content)
//! seal 9f8e7d6c                         (crc32c of the lines above)
//! ```

use std::{
    fs::{self, File},
    io::{self, Read},
    path::Path,
};

use crate::storage::{Error, Result};

/// The seal's file name.
pub(super) const NAME: &str = "SEAL";

const HEAD: &str = "forebay rocksdb snapshot 1\n";

/// A seal in the making.
#[derive(Default)]
pub(super) struct Seal(String);

impl Seal {
    /// Adds a file, with a checksum if it is to be held to its content too.
    pub(super) fn add(&mut self, name: &str, length: u64, checksum: Option<u32>) {
        let line = match checksum {
            Some(checksum) => format!("{name} {length} {checksum:08x}\n"),
            None => format!("{name} {length}\n"),
        };
        self.0.push_str(&line);
    }

    /// Returns the content of the file.
    pub(super) fn finish(self) -> Vec<u8> {
        let lines = format!("{HEAD}{}", self.0);
        let checksum = crc32c::crc32c(lines.as_bytes());
        format!("{lines}seal {checksum:08x}\n").into_bytes()
    }
}

/// Checks the files of a directory against its seal.
pub(super) fn verify(dir: &Path) -> Result<()> {
    let damaged = |detail: String| Err(Error::corrupt(dir, detail));
    let seal = match fs::read(dir.join(NAME)) {
        Ok(seal) => seal,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {
            return damaged(format!("file {NAME} is missing: not, or not wholly, the files of a snapshot"));
        }
        Err(err) => return Err(Error::io(dir, "read", &err)),
    };
    let Some(files) = parse(&seal) else { return damaged(format!("file {NAME} is damaged")) };
    for (name, length, checksum) in files {
        let found = match fs::metadata(dir.join(name)) {
            Ok(metadata) => metadata.len(),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return damaged(format!("file {name} is missing")),
            Err(err) => return Err(Error::io(dir, "read", &err)),
        };
        if found != length {
            return damaged(format!("file {name} has {found} bytes instead of {length}"));
        }
        if let Some(checksum) = checksum
            && checksum_of(&dir.join(name)).map_err(|err| Error::io(dir, "read", &err))? != checksum
        {
            return damaged(format!("file {name} does not have its checksum"));
        }
    }
    Ok(())
}

/// Removes the seal of a directory whose files will change from now on.
pub(super) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_file(dir.join(NAME)) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(Error::io(dir, "remove the seal of", &err)),
        _ => Ok(()),
    }
}

type Line<'a> = (&'a str, u64, Option<u32>);

fn parse(seal: &[u8]) -> Option<Vec<Line<'_>>> {
    let seal = str::from_utf8(seal).ok()?;
    let end = seal.rfind("seal ")?;
    let (lines, last) = seal.split_at(end);
    if last != format!("seal {:08x}\n", crc32c::crc32c(lines.as_bytes())) {
        return None;
    }
    lines.strip_prefix(HEAD)?.lines().map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Line<'_>> {
    let mut words = line.split(' ');
    let name = words.next().filter(|name| !name.is_empty() && !name.contains('/'))?;
    let length = words.next()?.parse().ok()?;
    let checksum = match words.next() {
        Some(word) => Some(u32::from_str_radix(word, 16).ok()?),
        None => None,
    };
    words.next().is_none().then_some((name, length, checksum))
}

fn checksum_of(path: &Path) -> io::Result<u32> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    let mut checksum = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(checksum);
        }
        checksum = crc32c::crc32c_append(checksum, &buffer[..read]);
    }
}
