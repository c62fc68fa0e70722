//! What goes wrong, and when.

use std::io;

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Open,
    Create,
    List,
    Length,
    Read,
    Write,
    SetLength,
    Allocate,
    Sync,
    Rename,
    Remove,
    Lock,
    Unlock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// During an operation, which may have taken effect; nothing works after it.
    PowerCut,
    /// EIO, once.
    Error,
    /// EIO, from then on.
    Broken,
    /// ENOSPC, from then on, wherever space is needed.
    Full,
    /// ENOSPC, once, at whatever operation.
    FullOnce,
    /// A write takes only a part, which is no error.
    ShortWrite,
    /// A sync fails, once, and what it was to sync stays in memory until it is written again.
    FailedSync,
}

impl Fault {
    pub(crate) const ALL: [Self; 7] = [
        Self::PowerCut,
        Self::Error,
        Self::Broken,
        Self::Full,
        Self::FullOnce,
        Self::ShortWrite,
        Self::FailedSync,
    ];

    /// Whether it can strike such an operation.
    pub(crate) fn fits(self, kind: Kind) -> bool {
        match self {
            Self::ShortWrite => kind == Kind::Write,
            Self::FailedSync => kind == Kind::Sync,
            Self::Full | Self::FullOnce => needs_space(kind),
            Self::PowerCut | Self::Error | Self::Broken => true,
        }
    }

    pub(super) fn is_lasting(self) -> bool {
        matches!(self, Self::Broken | Self::Full)
    }

    pub(super) fn lasts_for(self, kind: Kind) -> bool {
        match self {
            Self::Full => needs_space(kind),
            // An unlock is no matter of the disk's.
            _ => kind != Kind::Unlock,
        }
    }

    pub(super) fn error(self) -> io::Error {
        match self {
            Self::Full | Self::FullOnce => io::Error::from_raw_os_error(28),
            _ => io::Error::from_raw_os_error(5),
        }
    }

    pub(super) fn verdict(self) -> Verdict {
        match self {
            Self::PowerCut => Verdict::Cut,
            Self::ShortWrite => Verdict::Short,
            _ => Verdict::Fail(self.error()),
        }
    }
}

fn needs_space(kind: Kind) -> bool {
    matches!(kind, Kind::Create | Kind::Write | Kind::Allocate | Kind::Sync | Kind::Rename)
}

/// What becomes of an operation.
#[derive(Debug)]
pub(super) enum Verdict {
    Go,
    Short,
    Fail(io::Error),
    Cut,
}

impl Verdict {
    /// For what a failure leaves undone.
    pub(super) fn before(&self) -> io::Result<()> {
        match self {
            Self::Fail(error) => Err(io::Error::from_raw_os_error(error.raw_os_error().unwrap())),
            _ => Ok(()),
        }
    }

    pub(super) fn is_cut_before(&self, random: &mut Random) -> bool {
        matches!(self, Self::Cut) && random.chance(1, 2)
    }
}

/// What comes of everything on a disk whose power is off.
pub(super) fn cut_off() -> io::Error {
    io::Error::other("the power is off")
}

/// SplitMix64.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`, which is at least 1.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn chance(&mut self, of: u64, all: u64) -> bool {
        self.below(all) < of
    }
}
