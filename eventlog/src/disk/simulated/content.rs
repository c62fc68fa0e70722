//! What a file holds, and what of it would survive.

use std::collections::{BTreeMap, BTreeSet};

use super::Random;

/// The smallest piece that a disk writes as a whole.
pub(super) const SECTOR: usize = 512;

type Sector = [u8; SECTOR];

/// By number; what is not there is zero.
#[derive(Clone, Debug, Default)]
struct Content {
    sectors: BTreeMap<u64, Sector>,
    length: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    now: Content,
    synced: Content,
    /// What sectors have been since they were synced.
    dirty: BTreeMap<u64, Vec<Sector>>,
    /// Sectors that the system believes to be synced, and are not.
    lost: BTreeSet<u64>,
    /// What the length has been since it was synced.
    lengths: Vec<u64>,
    /// The handle that holds its lock.
    pub(super) locked_by: Option<u64>,
}

impl Inode {
    /// All of it synced.
    pub(super) fn with(bytes: &[u8]) -> Self {
        let mut inode = Self::default();
        inode.write(bytes, 0);
        inode.sync();
        inode
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.now.length as usize];
        self.read(&mut bytes, 0);
        bytes
    }

    pub(super) fn length(&self) -> u64 {
        self.now.length
    }

    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) {
        for (number, within, range) in pieces(offset, bytes.len()) {
            match self.now.sectors.get(&number) {
                Some(sector) => {
                    bytes[range.clone()].copy_from_slice(&sector[within..within + range.len()]);
                }
                None => bytes[range].fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, bytes: &[u8], offset: u64) {
        for (number, within, range) in pieces(offset, bytes.len()) {
            let sector = self.now.sectors.entry(number).or_insert([0; SECTOR]);
            sector[within..within + range.len()].copy_from_slice(&bytes[range]);
            self.dirty.entry(number).or_default().push(*sector);
            self.lost.remove(&number);
        }
        let end = offset + bytes.len() as u64;
        if end > self.now.length {
            (self.now.length, self.lengths) = (end, [&self.lengths[..], &[end]].concat());
        }
    }

    pub(super) fn set_length(&mut self, length: u64) {
        let shorter = length < self.now.length;
        self.now.length = length;
        self.lengths.push(length);
        if shorter {
            let beyond = length.div_ceil(SECTOR as u64);
            self.now.sectors.split_off(&beyond);
            self.dirty.split_off(&beyond);
            self.lost.split_off(&beyond);
            let (last, within) = (length / SECTOR as u64, length as usize % SECTOR);
            if let Some(sector) = self.now.sectors.get_mut(&last) {
                sector[within..].fill(0);
                self.dirty.entry(last).or_default().push(*sector);
                self.lost.remove(&last);
            }
        }
    }

    pub(super) fn sync(&mut self) {
        let lost = &self.lost;
        for number in self.dirty.keys().filter(|number| !lost.contains(number)) {
            self.synced.sectors.insert(*number, self.now.sectors[number]);
        }
        self.dirty.retain(|number, _| lost.contains(number));
        self.synced.set_length(self.now.length);
        self.lengths.clear();
    }

    /// As Linux does it: the system forgets that these sectors are to be written.
    pub(super) fn fail_to_sync(&mut self) {
        self.lost.extend(self.dirty.keys());
    }

    /// Nothing, all, or any of what was not synced is there.
    pub(super) fn cut_power(&mut self, random: &mut Random) {
        let all = random.below(4);
        let keeps = |random: &mut Random| match all {
            0 => false,
            1 => true,
            _ => random.chance(1, 2),
        };
        if let Some(length) = self.length_after_cut(random).filter(|_| keeps(random)) {
            self.synced.set_length(length);
        }
        for (number, versions) in std::mem::take(&mut self.dirty) {
            if keeps(random) {
                let version = if all == 1 {
                    versions.len() - 1
                } else {
                    random.below(versions.len() as u64) as usize
                };
                self.synced.sectors.insert(number, versions[version]);
            }
        }
        // What lies beyond the end is gone.
        self.synced.set_length(self.synced.length);
        self.now = self.synced.clone();
        self.lost.clear();
        self.lengths.clear();
    }

    /// One of the lengths that it had, or on the way from one to the next.
    fn length_after_cut(&self, random: &mut Random) -> Option<u64> {
        let at = random.below(self.lengths.len().max(1) as u64) as usize;
        let to = *self.lengths.get(at)?;
        let from = at.checked_sub(1).map_or(self.synced.length, |before| self.lengths[before]);
        if to <= from || random.chance(1, 2) {
            return Some(to);
        }
        Some(from + random.below(to - from))
    }
}

impl Content {
    fn set_length(&mut self, length: u64) {
        self.length = length;
        self.sectors.split_off(&length.div_ceil(SECTOR as u64));
        let (last, within) = (length / SECTOR as u64, length as usize % SECTOR);
        if let Some(sector) = self.sectors.get_mut(&last) {
            sector[within..].fill(0);
        }
    }
}

/// The sectors that a piece of a file lies in: number, where within it, and which of the piece.
fn pieces(
    offset: u64,
    length: usize,
) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let place = offset + at as u64;
        let within = place as usize % SECTOR;
        let more = (SECTOR - within).min(length - at);
        let range = at..at + more;
        at += more;
        (more > 0).then_some((place / SECTOR as u64, within, range))
    })
}
