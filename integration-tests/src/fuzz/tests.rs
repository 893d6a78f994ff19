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

#[test]
fn seeds_corpora_and_their_mutations_are_read_or_refused() {
    let mut random = 7;
    for (name, target) in TARGETS {
        let seeds = seeds(name);
        assert!(!seeds.is_empty(), "{name} has no seeds");
        for seed in seeds {
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
