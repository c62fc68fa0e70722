//! An open file of a simulated disk.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::MutexGuard,
};

use super::{
    Disk, State,
    fault::{Kind, Verdict},
};

/// An open file.
#[derive(Debug)]
pub(crate) struct Handle {
    disk: Disk,
    path: PathBuf,
    inode: u64,
    generation: u64,
    number: u64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.release(&mut self.disk.state());
    }
}

impl Handle {
    pub(super) fn new(disk: &Disk, state: &mut State, path: &Path, inode: u64) -> Self {
        state.handles += 1;
        let (number, generation) = (state.handles, state.generation);
        Self { disk: disk.clone(), path: path.into(), inode, generation, number }
    }

    fn release(&self, state: &mut State) {
        let inode = state.inode(self.inode);
        inode.locked_by = inode.locked_by.filter(|holder| *holder != self.number);
    }

    #[track_caller]
    fn enter(&self, kind: Kind) -> io::Result<(MutexGuard<'_, State>, Verdict)> {
        self.disk.enter(kind, &self.path, Some(self.generation))
    }

    #[track_caller]
    pub(in crate::disk) fn length(&self) -> io::Result<u64> {
        let (mut state, verdict) = self.enter(Kind::Length)?;
        state.end(verdict)?;
        Ok(state.inode(self.inode).length())
    }

    #[track_caller]
    pub(in crate::disk) fn read_exact_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let (mut state, verdict) = self.enter(Kind::Read)?;
        state.end(verdict)?;
        let inode = state.inode(self.inode);
        if offset + bytes.len() as u64 > inode.length() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        inode.read(bytes, offset);
        Ok(())
    }

    #[track_caller]
    pub(in crate::disk) fn write_all_at(
        &self,
        mut bytes: &[u8],
        mut offset: u64,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let (mut state, verdict) = self.enter(Kind::Write)?;
            let state = &mut *state;
            let length = bytes.len() as u64;
            let count = match verdict {
                Verdict::Short => 1 + state.random.below(length),
                // Some of it may have been written before it failed.
                Verdict::Fail(_) => state.random.below(length + 1),
                Verdict::Go | Verdict::Cut => length,
            };
            let (now, later) = bytes.split_at(count as usize);
            state.inode(self.inode).write(now, offset);
            state.end(verdict)?;
            (bytes, offset) = (later, offset + count);
        }
        Ok(())
    }

    #[track_caller]
    pub(in crate::disk) fn set_length(&self, length: u64) -> io::Result<()> {
        let (mut state, verdict) = self.enter(Kind::SetLength)?;
        verdict.before()?;
        state.inode(self.inode).set_length(length);
        state.end(verdict)
    }

    #[track_caller]
    pub(in crate::disk) fn allocate(&self, length: u64) -> io::Result<()> {
        let (mut state, verdict) = self.enter(Kind::Allocate)?;
        verdict.before()?;
        let inode = state.inode(self.inode);
        if length > inode.length() {
            inode.set_length(length);
        }
        state.end(verdict)
    }

    #[track_caller]
    pub(in crate::disk) fn sync(&self) -> io::Result<()> {
        let (mut state, verdict) = self.enter(Kind::Sync)?;
        let state = &mut *state;
        let cut_before = verdict.is_cut_before(&mut state.random);
        let inode = state.inode(self.inode);
        match verdict {
            Verdict::Fail(_) => inode.fail_to_sync(),
            Verdict::Cut if cut_before => {}
            _ => inode.sync(),
        }
        state.end(verdict)
    }

    #[track_caller]
    pub(in crate::disk) fn try_lock(&self) -> Result<(), fs::TryLockError> {
        let (mut state, verdict) = self.enter(Kind::Lock).map_err(fs::TryLockError::Error)?;
        state.end(verdict).map_err(fs::TryLockError::Error)?;
        let inode = state.inode(self.inode);
        if inode.locked_by.is_some() {
            return Err(fs::TryLockError::WouldBlock);
        }
        inode.locked_by = Some(self.number);
        Ok(())
    }

    #[track_caller]
    pub(in crate::disk) fn unlock(&self) -> io::Result<()> {
        let (mut state, verdict) = self.enter(Kind::Unlock)?;
        self.release(&mut state);
        state.end(verdict)
    }
}
