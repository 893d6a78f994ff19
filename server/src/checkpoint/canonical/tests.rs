//! Files written, read, and damaged.

use forebay_proto::key_group::MaxParallelism;

use super::*;

type Owned = (u32, Vec<u8>, Vec<u8>);

fn group(number: u32) -> KeyGroup {
    KeyGroup::new(number, MaxParallelism::new(128).unwrap()).unwrap()
}

fn range(start: u32, end: u32) -> KeyGroupRange {
    KeyGroupRange::new(start, end).unwrap()
}

/// Three key groups, one of them of many blocks.
fn write(path: &Path) -> (v1::CanonicalHead, Vec<Owned>) {
    let head = v1::CanonicalHead { operator: "op".into(), start: 3, end: 90, checkpoint: 7, ..Default::default() };
    let mut writer = Writer::create(path, &head).unwrap();
    writer.shard_row(b"c", b"counters").unwrap();
    let mut rows = Vec::new();
    for (number, count) in [(3, 1), (40, 900_u32), (89, 2)] {
        for i in 0..count {
            let key = [&(number as u16).to_be_bytes()[..], &i.to_be_bytes()].concat();
            let row = i.wrapping_mul(2_654_435_761).to_be_bytes().repeat(250);
            writer.row(group(number), 5, &key, &row).unwrap();
            rows.push((5, key, row));
        }
    }
    assert_eq!(writer.finish().unwrap(), std::fs::metadata(path).unwrap().len());
    (head, rows)
}

fn read(path: &Path, range: KeyGroupRange) -> Result<Vec<Owned>, Error> {
    let mut rows = Vec::new();
    let mut reader = Reader::open(path)?;
    reader.shard_rows(&mut |row| {
        assert_eq!(row, (0, &b"c"[..], &b"counters"[..]));
        Ok(())
    })?;
    reader.rows(range, &mut |(table, key, row)| {
        rows.push((table, key.to_vec(), row.to_vec()));
        Ok(())
    })?;
    Ok(rows)
}

#[test]
fn rows_come_back_whole_and_by_key_group() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows");
    let (head, rows) = write(&path);
    assert_eq!(Reader::open(&path).unwrap().head(), &head);
    assert_eq!(read(&path, range(0, 128)).unwrap(), rows);
    assert_eq!(read(&path, range(40, 41)).unwrap(), rows[1..901]);
    assert_eq!(read(&path, range(41, 89)).unwrap(), []);
    assert_eq!(read(&path, range(41, 90)).unwrap(), rows[901..]);
}

#[test]
fn an_empty_shard_is_a_file_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows");
    Writer::create(&path, &v1::CanonicalHead::default()).unwrap().finish().unwrap();
    assert_eq!(read(&path, range(0, 128)).unwrap(), []);
}

#[test]
fn every_damaged_byte_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("rows"), dir.path().join("copy"));
    write(&path);
    let whole = std::fs::read(&path).unwrap();
    let fails = |bytes: &[u8], what: &str| {
        std::fs::write(&copy, bytes).unwrap();
        let err = read(&copy, range(0, 128)).err().unwrap_or_else(|| panic!("{what} goes unnoticed"));
        assert!(err.to_string().contains("copy"), "{err}");
    };
    let step = whole.len() / 200;
    let places = (0..whole.len()).filter(|at| *at < 60 || whole.len() - at < 120 || at % step == 0);
    for at in places {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fails(&damaged, &format!("a flipped bit at {at}"));
        fails(&whole[..at], &format!("an end at {at}"));
    }
    fails(&[&whole[..], b"x"].concat(), "a byte behind the end");
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows");
    write(&path);
    let mut newer = std::fs::read(&path).unwrap();
    newer[8] = 2;
    std::fs::write(&path, newer).unwrap();
    assert!(matches!(Reader::open(&path), Err(Error::Version { found: 2, .. })));
}
