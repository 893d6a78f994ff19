//! The data: keys, values that tell which key and which write they are of, and what must be found later.

use anyhow::{Result, bail, ensure};

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 100;
/// Key and stamp; noise fills the rest, so that nothing compresses to nothing.
const HEAD_BYTES: usize = KEY_BYTES + 8;
const NOISE_BYTES: usize = 1 << 16;
/// Every so many keys one is a sample whose content is known.
const SAMPLES: u32 = 250;
/// Every so many answers one is compared byte by byte; the others by their length.
const COMPARED: u32 = 16;
/// All keys, and how their values are made.
pub struct Data {
    keys: Vec<[u8; KEY_BYTES]>,
    noise: Vec<u8>,
}

impl Data {
    /// Makes that many keys.
    pub fn new(count: u32) -> Self {
        let mut random = Random::new(u64::from(count));
        let noise = (0..NOISE_BYTES + VALUE_BYTES).map(|_| random.draw() as u8).collect();
        Self { keys: (0..count).map(hex_key).collect(), noise }
    }

    /// True if there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Number of keys.
    pub fn len(&self) -> u32 {
        self.keys.len() as u32
    }

    /// The key of an index.
    pub fn key(&self, index: u32) -> &[u8] {
        &self.keys[index as usize]
    }

    /// Makes the value of a key that a write with this stamp stores.
    pub fn value(&self, index: u32, stamp: u64) -> [u8; VALUE_BYTES] {
        let mut value = [0; VALUE_BYTES];
        value[..KEY_BYTES].copy_from_slice(&self.keys[index as usize]);
        value[KEY_BYTES..HEAD_BYTES].copy_from_slice(&stamp.to_le_bytes());
        value[HEAD_BYTES..].copy_from_slice(self.noise_of(index, stamp));
        value
    }

    /// Returns the stamp of a value; fails if it is not, byte by byte, one of this key.
    fn stamp(&self, index: u32, value: &[u8]) -> Result<u64> {
        let stamp = self.stamp_of(index, value)?;
        let noise = &value[HEAD_BYTES..];
        ensure!(noise == self.noise_of(index, stamp), "the value of key {index}, write {stamp}, is damaged");
        Ok(stamp)
    }

    /// Returns the stamp of a value; fails if it has another length or is of another key.
    fn stamp_of(&self, index: u32, value: &[u8]) -> Result<u64> {
        ensure!(value.len() == VALUE_BYTES, "the value of key {index} has {} bytes", value.len());
        let (key, rest) = value.split_at(KEY_BYTES);
        ensure!(key == self.key(index), "the value of key {index} is of key {}", String::from_utf8_lossy(key));
        let stamp = rest.first_chunk().map_or(0, |stamp| u64::from_le_bytes(*stamp));
        Ok(stamp)
    }

    /// Checks the answer to a read: its length always, every byte now and then.
    pub fn check(&self, index: u32, value: Option<&[u8]>) -> Result<()> {
        let Some(value) = value else { bail!("key {index} is absent") };
        if index.is_multiple_of(COMPARED) {
            self.stamp(index, value)?;
        }
        ensure!(value.len() == VALUE_BYTES, "the value of key {index} has {} bytes", value.len());
        Ok(())
    }

    /// Checks a value that was read to be changed: its key and stamp always, every byte now and then.
    pub fn check_update(&self, index: u32, value: Option<&[u8]>, expected: u64) -> Result<()> {
        let Some(value) = value else { bail!("key {index} is absent") };
        let stamp = if index.is_multiple_of(COMPARED) { self.stamp(index, value) } else { self.stamp_of(index, value) };
        let stamp = stamp?;
        ensure!(stamp == expected, "key {index} holds write {stamp}, not {expected}");
        Ok(())
    }

    fn noise_of(&self, index: u32, stamp: u64) -> &[u8] {
        let start = (u64::from(index).wrapping_mul(31).wrapping_add(stamp.wrapping_mul(101))) as usize % NOISE_BYTES;
        &self.noise[start..][..VALUE_BYTES - HEAD_BYTES]
    }
}

/// 16 hexadecimal digits, no two alike and in no order.
fn hex_key(index: u32) -> [u8; KEY_BYTES] {
    let mixed = mix(u64::from(index));
    std::array::from_fn(|digit| b"0123456789abcdef"[(mixed >> (60 - 4 * digit)) as usize & 15])
}

/// The finalizer of splitmix64, which is a bijection.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// A sequence of numbers that depends on nothing but its seed.
pub struct Random(u64);

impl Random {
    /// Starts the sequence of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns a number below `end`.
    pub fn below(&mut self, end: u32) -> u32 {
        (((self.draw() >> 32) * u64::from(end)) >> 32) as u32
    }

    /// Returns the numbers below `end`, shuffled.
    pub fn order(&mut self, end: u32) -> Vec<u32> {
        let mut order: Vec<_> = (0..end).collect();
        for last in (1..end).rev() {
            order.swap(last as usize, self.below(last + 1) as usize);
        }
        order
    }
}

/// What was written to a sampled key.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    /// How often.
    pub count: u64,
    /// Stamp of the last write.
    pub stamp: u64,
}

/// Gives out stamps and remembers what a sample of the keys must hold.
pub struct Ledger {
    step: u32,
    stamp: u64,
    written: Vec<Written>,
}

impl Ledger {
    /// Knows of no write yet.
    pub fn new(keys: u32) -> Self {
        let step = (keys / SAMPLES).max(1);
        Self { step, stamp: 0, written: vec![Written::default(); keys.div_ceil(step) as usize] }
    }

    /// Notes that a key is about to be written, and returns the stamp to write.
    pub fn write(&mut self, index: u32) -> u64 {
        self.stamp += 1;
        if index.is_multiple_of(self.step) {
            let written = &mut self.written[(index / self.step) as usize];
            *written = Written { count: written.count + 1, stamp: self.stamp };
        }
        self.stamp
    }

    /// Forgets everything, as the store does.
    pub fn clear(&mut self) {
        self.written.fill(Written::default());
    }

    /// Returns the sampled keys that were written.
    pub fn sample(&self) -> impl Iterator<Item = (u32, Written)> {
        let keys = self.written.iter().enumerate();
        keys.filter(|(_, written)| written.count > 0).map(|(place, &written)| (place as u32 * self.step, written))
    }

    /// Checks what was read of a sampled key.
    pub fn check(&self, data: &Data, index: u32, found: Option<&[u8]>) -> Result<()> {
        let written = self.written[(index / self.step) as usize];
        let Some(value) = found else { bail!("key {index} is absent") };
        let stamp = data.stamp(index, value)?;
        ensure!(stamp == written.stamp, "key {index} holds write {stamp}, not {}", written.stamp);
        Ok(())
    }

    /// Checks a list of a sampled key: its length, and its last element.
    pub fn check_list(&self, data: &Data, index: u32, len: u64, last: Option<&[u8]>) -> Result<()> {
        let count = self.written[(index / self.step) as usize].count;
        ensure!(len == count, "the list of key {index} has {len} elements, not {count}");
        self.check(data, index, last)
    }
}
