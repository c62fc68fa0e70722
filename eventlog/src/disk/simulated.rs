//! A disk in memory that does to the log what disks do: it forgets what was not synced when the power
//! is cut, tears and reorders writes by sectors, and fails at the operation that it is told to.
//!
//! It is found by path, as a mounted file system is. Everything random comes from its seed.

mod content;
mod fault;
mod handle;

use std::{
    collections::BTreeMap,
    fmt, io,
    panic::Location,
    path::{Path, PathBuf},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use content::Inode;
pub(crate) use fault::{Fault, Kind, Random};
use fault::{Verdict, cut_off};
pub(crate) use handle::Handle;

/// Where simulated disks are mounted; no real path begins like this.
const ROOT: &str = "/simulated";

static MOUNTED: Mutex<BTreeMap<PathBuf, Disk>> = Mutex::new(BTreeMap::new());

/// The disk that has this path.
pub(super) fn holding(path: &Path) -> Option<Disk> {
    let mut above = path.ancestors();
    path.starts_with(ROOT).then_some(())?;
    let mounted = MOUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    above.find_map(|above| mounted.get(above).cloned())
}

/// Gone when this is dropped.
pub(crate) struct Mounted {
    pub(crate) root: PathBuf,
    pub(crate) disk: Disk,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        MOUNTED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.root);
    }
}

pub(crate) fn mount(seed: u64) -> Mounted {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let root = Path::new(ROOT).join(NUMBER.fetch_add(1, Ordering::Relaxed).to_string());
    let names = Names::from([(root.clone(), Node::Folder)]);
    let state = State {
        random: Random::new(seed),
        now: names.clone(),
        synced: names,
        changes: Vec::new(),
        inodes: BTreeMap::new(),
        generation: 0,
        handles: 0,
        operations: 0,
        fault: None,
        struck: None,
        lasting: None,
        is_off: false,
        is_paused: false,
        waiting: 0,
        phase: "start",
        sites: BTreeMap::new(),
    };
    let disk = Disk(Arc::new((Mutex::new(state), Condvar::new())));
    MOUNTED.lock().unwrap_or_else(PoisonError::into_inner).insert(root.clone(), disk.clone());
    Mounted { root, disk }
}

type Names = BTreeMap<PathBuf, Node>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    Folder,
    File(u64),
}

/// What was done to names.
#[derive(Clone, Debug)]
enum Change {
    Made(PathBuf, Node),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf),
}

impl Change {
    fn path(&self) -> &Path {
        match self {
            Self::Made(path, _) | Self::Renamed(_, path) | Self::Removed(path) => path,
        }
    }

    fn apply(&self, names: &mut Names) {
        match self {
            Self::Made(path, node) => drop(names.insert(path.clone(), *node)),
            Self::Renamed(from, to) => {
                if let Some(node) = names.remove(from) {
                    names.insert(to.clone(), node);
                }
            }
            Self::Removed(path) => drop(names.remove(path)),
        }
    }
}

struct State {
    random: Random,
    now: Names,
    synced: Names,
    /// What leads from `synced` to `now`.
    changes: Vec<Change>,
    inodes: BTreeMap<u64, Inode>,
    /// Handles of earlier processes do nothing.
    generation: u64,
    handles: u64,
    operations: u64,
    fault: Option<(When, Fault)>,
    /// What has happened, and where.
    struck: Option<String>,
    /// The error of everything that needs the disk, or space.
    lasting: Option<Fault>,
    is_off: bool,
    is_paused: bool,
    /// How many operations wait.
    waiting: u64,
    /// What the log is doing, for the names of sites.
    phase: &'static str,
    /// How often each place has used the disk.
    sites: BTreeMap<String, Visits>,
}

/// When a fault strikes.
#[derive(Debug)]
enum When {
    /// At the first operation that it fits, from this one on.
    After(u64),
    /// At this visit of a place.
    Visit(String, u64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Visits {
    pub(crate) kind: Kind,
    pub(crate) count: u64,
}

/// How the process ended before this start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// What the system had taken is there.
    Process,
    /// What was not synced is there, or not, or in part.
    Machine,
}

#[derive(Clone)]
pub(crate) struct Disk(Arc<(Mutex<State>, Condvar)>);

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fault strikes the first operation that it can, `after` so many.
    pub(crate) fn plan(&self, after: u64, fault: Fault) {
        let mut state = self.state();
        state.fault = Some((When::After(state.operations + after), fault));
    }

    /// The fault strikes at a visit, counted from 1, of a place.
    pub(crate) fn plan_at(&self, site: &str, visit: u64, fault: Fault) {
        self.state().fault = Some((When::Visit(site.to_owned(), visit), fault));
    }

    /// What the planned fault has struck.
    pub(crate) fn struck(&self) -> Option<String> {
        self.state().struck.clone()
    }

    pub(crate) fn enter_phase(&self, phase: &'static str) {
        self.state().phase = phase;
    }

    /// Every place that has used the disk: what it was doing, the operation, file and line.
    pub(crate) fn sites(&self) -> BTreeMap<String, Visits> {
        self.state().sites.clone()
    }

    /// The next operations wait.
    pub(crate) fn pause(&self) {
        self.state().is_paused = true;
    }

    pub(crate) fn is_waited_for(&self) -> bool {
        self.state().waiting > 0
    }

    pub(crate) fn resume(&self) {
        self.state().is_paused = false;
        self.0.1.notify_all();
    }

    /// Everything works again, and what the process had open is gone.
    pub(crate) fn restart(&self, how: Restart) {
        let mut state = self.state();
        let state = &mut *state;
        if how == Restart::Machine || state.is_off {
            state.cut_power();
        }
        state.generation += 1;
        (state.fault, state.struck, state.lasting, state.is_off) = (None, None, None, false);
        state.inodes.values_mut().for_each(|inode| inode.locked_by = None);
    }

    pub(crate) fn has(&self, path: &Path) -> bool {
        self.state().now.contains_key(path)
    }

    /// Bytes of the file up to the last that is not zero.
    pub(crate) fn used(&self, path: &Path) -> usize {
        self.bytes(path).iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
    }

    /// The file's bytes, as they are to be read.
    pub(crate) fn bytes(&self, path: &Path) -> Vec<u8> {
        let state = self.state();
        state.inodes[&state.file(path).unwrap()].bytes()
    }

    /// Changes a file behind everybody's back, durably.
    pub(crate) fn set_bytes(&self, path: &Path, bytes: &[u8]) {
        let mut state = self.state();
        let inode = state.file(path).unwrap();
        state.inodes.insert(inode, Inode::with(bytes));
    }

    #[track_caller]
    fn enter(
        &self,
        kind: Kind,
        path: &Path,
        handle: Option<u64>,
    ) -> io::Result<(MutexGuard<'_, State>, Verdict)> {
        let mut state = self.state();
        while state.is_paused {
            state.waiting += 1;
            state = self.0.1.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.waiting -= 1;
        }
        if state.is_off || handle.is_some_and(|generation| generation != state.generation) {
            return Err(cut_off());
        }
        state.operations += 1;
        let site = site(state.phase, kind, path, Location::caller());
        let visits = state.sites.entry(site.clone()).or_insert(Visits { kind, count: 0 });
        visits.count += 1;
        let visit = visits.count;
        if let Some(fault) = state.lasting
            && fault.lasts_for(kind)
        {
            return Ok((state, Verdict::Fail(fault.error())));
        }
        let Some(fault) = state.due(kind, &site, visit) else { return Ok((state, Verdict::Go)) };
        (state.fault, state.struck) = (None, Some(format!("{fault:?} at {site}")));
        state.lasting = fault.is_lasting().then_some(fault);
        Ok((state, fault.verdict()))
    }

    #[track_caller]
    pub(super) fn open(&self, path: &Path) -> io::Result<Handle> {
        let (mut state, verdict) = self.enter(Kind::Open, path, None)?;
        state.end(verdict)?;
        let inode = state.file(path)?;
        Ok(Handle::new(self, &mut state, path, inode))
    }

    #[track_caller]
    pub(super) fn create(&self, path: &Path, empty: bool) -> io::Result<Handle> {
        let (mut state, verdict) = self.enter(Kind::Create, path, None)?;
        verdict.before()?;
        let inode = match state.file(path) {
            Ok(inode) if empty => {
                state.inode(inode).set_length(0);
                inode
            }
            Ok(inode) => inode,
            Err(_) => {
                let inode = state.inodes.len() as u64;
                state.inodes.insert(inode, Inode::default());
                state.change(Change::Made(path.into(), Node::File(inode)))?;
                inode
            }
        };
        state.end(verdict)?;
        Ok(Handle::new(self, &mut state, path, inode))
    }

    #[track_caller]
    pub(super) fn is_dir(&self, dir: &Path) -> io::Result<bool> {
        let (mut state, verdict) = self.enter(Kind::Open, dir, None)?;
        state.end(verdict)?;
        Ok(state.now.get(dir) == Some(&Node::Folder))
    }

    #[track_caller]
    pub(super) fn create_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, verdict) = self.enter(Kind::Create, dir, None)?;
        verdict.before()?;
        if state.now.contains_key(dir) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.change(Change::Made(dir.into(), Node::Folder))?;
        state.end(verdict)
    }

    #[track_caller]
    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let (mut state, verdict) = self.enter(Kind::List, dir, None)?;
        state.end(verdict)?;
        let within = |path: &&PathBuf| path.parent() == Some(dir);
        Ok(state.now.keys().filter(within).cloned().collect())
    }

    #[track_caller]
    pub(super) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let (mut state, verdict) = self.enter(Kind::Sync, dir, None)?;
        // Unlike data, what is to be done to names is kept until it is done.
        verdict.before()?;
        let state = &mut *state;
        if !verdict.is_cut_before(&mut state.random) {
            let (done, left) = std::mem::take(&mut state.changes)
                .into_iter()
                .partition(|change| change.path().parent() == Some(dir));
            state.changes = left;
            let done: Vec<_> = done;
            for change in &done {
                change.apply(&mut state.synced);
            }
        }
        state.end(verdict)
    }

    #[track_caller]
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, verdict) = self.enter(Kind::Rename, to, None)?;
        verdict.before()?;
        state.file(from)?;
        state.change(Change::Renamed(from.into(), to.into()))?;
        state.end(verdict)
    }

    #[track_caller]
    pub(super) fn remove_file(&self, path: &Path) -> io::Result<()> {
        let (mut state, verdict) = self.enter(Kind::Remove, path, None)?;
        verdict.before()?;
        state.file(path)?;
        state.change(Change::Removed(path.into()))?;
        state.end(verdict)
    }
}

/// `append: Write of a segment at embedded/writer.rs:254`
fn site(phase: &str, kind: Kind, path: &Path, at: &Location<'_>) -> String {
    let what = path.extension().and_then(|extension| extension.to_str()).unwrap_or("folder");
    // Made beside everything else that goes on.
    let is_index = path.file_name().is_some_and(|name| name.to_string_lossy().contains(".index"));
    let phase = if is_index { "index" } else { phase };
    let file = at.file().rsplit_once("src/").map_or(at.file(), |(_, file)| file);
    format!("{phase}: {kind:?} of a {what} at {file}:{}", at.line())
}

impl State {
    /// The fault that strikes now.
    fn due(&self, kind: Kind, site: &str, visit: u64) -> Option<Fault> {
        let (when, fault) = self.fault.as_ref()?;
        let is_now = match when {
            When::After(operation) => *operation <= self.operations,
            When::Visit(place, number) => place == site && *number == visit,
        };
        (is_now && fault.fits(kind)).then_some(*fault)
    }

    fn inode(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("handles are of inodes that exist")
    }

    fn file(&self, path: &Path) -> io::Result<u64> {
        match self.now.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Folder) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        if self.now.get(super::parent(change.path())) != Some(&Node::Folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        change.apply(&mut self.now);
        self.changes.push(change);
        Ok(())
    }

    /// How an operation ends that has done what it does.
    fn end(&mut self, verdict: Verdict) -> io::Result<()> {
        match verdict {
            Verdict::Go | Verdict::Short => Ok(()),
            Verdict::Fail(error) => Err(error),
            Verdict::Cut => {
                self.is_off = true;
                Err(cut_off())
            }
        }
    }

    fn cut_power(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        // Mostly names change in order, and always so on a file system with a journal.
        let in_order = self.random.chance(2, 3);
        let most = self.random.below(changes.len() as u64 + 1);
        for (at, change) in changes.iter().enumerate() {
            if if in_order { (at as u64) < most } else { self.random.chance(1, 2) } {
                change.apply(&mut self.synced);
            }
        }
        let synced = &self.synced;
        let is_reachable = |path: &Path| {
            path.ancestors()
                .skip(1)
                .take_while(|above| *above != Path::new(ROOT))
                .all(|above| synced.contains_key(above))
        };
        let names = synced.iter().filter(|(path, _)| is_reachable(path));
        self.now = names.map(|(path, node)| (path.clone(), *node)).collect();
        self.synced = self.now.clone();
        for inode in self.inodes.values_mut() {
            inode.cut_power(&mut self.random);
        }
    }
}
