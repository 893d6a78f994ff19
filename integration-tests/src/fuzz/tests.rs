use std::{fs, io};

use super::*;

/// Mutations of each seed.
const MUTATIONS: usize = 3_000;

/// Changes, cuts, doubles or puts in a few bytes.
fn spoil(bytes: &mut Vec<u8>, random: &mut u64) {
    let mut pick = |bound: usize| {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*random >> 33) as usize % bound.max(1)
    };
    for _ in 0..=pick(3) {
        let at = pick(bytes.len());
        match pick(5) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << pick(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][pick(5)],
            2 => bytes.truncate(at),
            3 if !bytes.is_empty() => {
                let copied = bytes[at..].to_vec();
                bytes.extend(copied);
            }
            _ => bytes.insert(at, pick(256) as u8),
        }
    }
}

/// The corpus of a target; an empty one is none.
fn committed(name: &str) -> Seeds {
    let corpus = corpus(name).unwrap_or_else(|error| panic!("{}/{name}: {error}", corpora().display()));
    assert!(!corpus.is_empty(), "{name} has an empty corpus");
    corpus
}

#[test]
fn every_target_has_a_corpus_and_every_corpus_a_target() {
    let mut names: Vec<_> = TARGETS.map(|(name, _)| name.to_owned()).into();
    names.iter().for_each(|name| drop(committed(name)));
    let entries = fs::read_dir(corpora()).unwrap();
    let mut folders: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    folders.sort();
    assert_eq!(folders, names);
}

#[test]
fn a_target_without_a_folder_has_no_corpus() {
    assert_eq!(corpus("no_such_target").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn seeds_corpora_and_their_mutations_are_read_or_refused() {
    let mut random = 7;
    for (name, target) in TARGETS {
        let (good, corpus) = (good(name), committed(name));
        assert!(!good.is_empty(), "{name} has no good inputs");
        for seed in good.into_iter().chain(corpus) {
            target(&seed);
            let mut spoilt = seed.clone();
            for round in 0..MUTATIONS {
                if round % 8 == 0 || spoilt.len() > 4 * seed.len() + 64 {
                    spoilt.clone_from(&seed);
                }
                spoil(&mut spoilt, &mut random);
                target(&spoilt);
            }
        }
    }
}
