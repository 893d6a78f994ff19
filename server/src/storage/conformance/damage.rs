//! Behaviours in front of damaged files: a backend refuses them, or was not touched by the damage; it
//! never shows another content.

use std::{fs, path::Path};

use super::{A, B, Behaviour, Content, Subject, content, put};
use crate::storage::Error;

pub(super) const ALL: &[Behaviour] = &[
    ("a_flipped_bit_changes_no_content", a_flipped_bit_changes_no_content),
    ("a_file_cut_short_is_refused", a_file_cut_short_is_refused),
    ("a_file_too_long_changes_no_content", a_file_too_long_changes_no_content),
];

/// Places in a file that are tried; every one of a short file.
const PLACES: usize = 12;

fn a_flipped_bit_changes_no_content(subject: &Subject) {
    for_each_damage(subject, |length| {
        let step = (length / PLACES).max(1);
        (0..length).step_by(step).chain(length.checked_sub(1)).map(Damage::Flip).collect()
    });
}

fn a_file_cut_short_is_refused(subject: &Subject) {
    for_each_damage(subject, |length| {
        let lengths = [0, length / 2, length.saturating_sub(7), length.saturating_sub(1)];
        lengths.into_iter().filter(|cut| *cut < length).map(Damage::Cut).collect()
    });
}

fn a_file_too_long_changes_no_content(subject: &Subject) {
    for_each_damage(subject, |_| vec![Damage::Extend]);
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(usize),
    Cut(usize),
    Extend,
}

fn for_each_damage(subject: &Subject, damages: impl Fn(usize) -> Vec<Damage>) {
    let mut backend = subject.backend();
    // Two rounds with a snapshot opened in between, so that there are files of every kind.
    subject.write(&mut *backend, |writes| {
        (0..300_u32).for_each(|i| put(writes, A, i.to_be_bytes(), [7; 40]));
    });
    let (first, _) = subject.freeze(&mut *backend, "first");
    drop(backend);
    let mut backend = (subject.open)(&first).unwrap();
    (0..20_u32).for_each(|i| subject.put(&mut *backend, B, i.to_be_bytes(), [8; 40]));
    let expected = content(&*backend).unwrap();
    let (dir, files) = subject.freeze(&mut *backend, "second");
    drop(backend);

    let mut tried = 0;
    for file in files {
        let name = &file.name;
        let intact = fs::read(dir.join(name)).unwrap();
        for damage in damages(intact.len()) {
            tried += 1;
            let copy = subject.dir(&format!("copy{tried}"));
            for entry in fs::read_dir(&dir).unwrap() {
                let from = entry.unwrap().path();
                fs::copy(&from, copy.join(from.file_name().unwrap())).unwrap();
            }
            let mut bytes = intact.clone();
            match damage {
                Damage::Flip(place) => bytes[place] ^= 1 << (place % 8),
                Damage::Cut(length) => bytes.truncate(length),
                Damage::Extend => bytes.extend([0; 9]),
            }
            fs::write(copy.join(name), bytes).unwrap();
            match open(subject, &copy) {
                Ok(content) => {
                    let cut = matches!(damage, Damage::Cut(_));
                    assert!(!cut, "{name} opened after {damage:?}");
                    assert!(content == expected, "{name} opened with other content after {damage:?}");
                }
                Err(Error::Corrupt { .. }) => {}
                Err(err) => panic!("{name} failed after {damage:?}: {err}"),
            }
            fs::remove_dir_all(&copy).unwrap();
        }
    }
    assert!(tried > 0);
}

fn open(subject: &Subject, dir: &Path) -> Result<Content, Error> {
    content(&*(subject.open)(dir)?)
}
