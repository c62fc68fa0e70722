//! One life of a log, with every fault at every one of its operations on the disk: where threads of their
//! own write, and where whoever appends does, as it may on a runtime of several threads.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path};

use ids::Timestamp;
use tokio::runtime::{Builder, Runtime};

use super::{
    crashes::{OPTIONS, chain, check_message, check_refusal, check_stop, settle},
    history::{Broke, History, clock},
};
use crate::{
    Log, OpenError,
    disk::simulated::{Fault, Mounted, Random, Restart, Visits, mount},
    files::{self, ImportError, Imported},
    owner::Revisions,
    scavenge,
    snapshot::{Form, Snapshots},
    verify,
};

/// What the life got done, which must then be so.
#[derive(Default)]
struct Done {
    /// So many events are in the copy.
    imported: Option<u64>,
    /// So many are left in it.
    cut: Option<u64>,
}

fn form() -> Form<Vec<u8>> {
    let decode = |bytes: &[u8]| Some(bytes.to_vec());
    Form { name: "sites", version: 1, encode: Clone::clone, decode }
}

async fn life(mounted: &Mounted, history: &mut History, done: &mut Done) {
    let (disk, dir) = (&mounted.disk, &mounted.root.join("log"));
    for phase in ["begin", "start"] {
        disk.enter_phase(phase);
        let log = match Log::open_with(dir, clock(), OPTIONS) {
            Ok(log) => log,
            Err(error) => return check_refusal(mounted, &error),
        };
        disk.enter_phase("work");
        let mut outcome = history.look(&log).await;
        for _ in 0..10 {
            if outcome.is_ok() {
                outcome = history.step(&log, disk).await;
            }
        }
        if outcome.is_ok() {
            disk.enter_phase("snapshot");
            outcome = save_and_load(&log, history, &mounted.root.join("snapshots")).await;
        }
        disk.enter_phase("close");
        if let Err(Broke(why)) = outcome {
            return check_stop(mounted, history, &log, &why).await;
        }
    }
    let copy = &mounted.root.join("copies").join("log");
    if let Err(error) = copy_and_repair(mounted, dir, copy, done) {
        assert!(disk.struck().is_some(), "{}", chain(&error));
        check_message(&chain(&error));
    }
}

/// A snapshot is what was saved or is not there, whatever the disk does.
async fn save_and_load(log: &Log, history: &History, dir: &Path) -> Result<(), Broke> {
    let (next, snapshots) = (history.count(), Snapshots::new(dir, form()));
    let broke = |error: crate::LogError| Broke(error.to_string());
    let state = next.to_le_bytes().repeat(200);
    snapshots.save(log, next, &state, &Revisions::default()).await.map_err(broke)?;
    if let Some(found) = snapshots.load(log).await.map_err(broke)? {
        assert_eq!(found.state, found.next.to_le_bytes().repeat(200));
    }
    Ok(())
}

fn copy_and_repair(
    mounted: &Mounted,
    dir: &Path,
    copy: &Path,
    done: &mut Done,
) -> Result<(), ImportError<OpenError>> {
    mounted.disk.enter_phase("import");
    let mut events = Vec::new();
    files::walk(dir, 0, |entry| {
        events.push(Ok(Imported::from(entry)));
        Ok::<_, OpenError>(ControlFlow::Continue(()))
    })?;
    let count = events.len() as u64;
    files::import_in_segments_of(copy, events.into_iter(), u64::from(OPTIONS.segment_bytes))?;
    done.imported = Some(count);
    mounted.disk.enter_phase("scavenge");
    let whole = verify(copy)?.head;
    scavenge(copy, Timestamp(0))?;
    assert_eq!(verify(copy)?.head, whole);

    let segments = files::segments(copy)?;
    let victim = &segments[segments.len() / 2].path;
    let mut bytes = mounted.disk.bytes(victim);
    *bytes.last_mut().unwrap() ^= 8;
    mounted.disk.set_bytes(victim, &bytes);
    done.imported = None;
    mounted.disk.enter_phase("cut");
    let wound = files::wound(copy)?.expect("it is damaged");
    files::cut(copy, &wound)?;
    done.cut = Some(wound.sound);
    Ok(())
}

async fn settle_all(mounted: &Mounted, history: &mut History, done: &Done) {
    settle(mounted, history).await;
    let copy = mounted.root.join("copies").join("log");
    if let Some(count) = done.imported.or(done.cut) {
        assert_eq!(verify(&copy).unwrap().events, count, "what was said to be done is not");
    } else if mounted.disk.has(&copy) {
        // Whatever the repair came to, it can be done again.
        if let Some(wound) = files::wound(&copy).unwrap() {
            files::cut(&copy, &wound).unwrap();
        }
        assert_eq!(files::wound(&copy).unwrap(), None);
    }
    let dir = mounted.root.join("log");
    let log = Log::open_with(&dir, clock(), OPTIONS).unwrap();
    save_and_load(&log, history, &mounted.root.join("snapshots")).await.unwrap();
}

/// What is to go wrong: at which visit of which place.
type Plan<'a> = Option<(&'a str, u64, Fault)>;

/// Returns which places the life has, and whether the fault struck.
async fn run(plan: Plan<'_>) -> (BTreeMap<String, Visits>, bool) {
    let mounted = mount(plan.map_or(0, |(_, visit, fault)| visit << 8 | fault as u64));
    let mut history = History::new(4);
    let mut done = Done::default();
    if let Some((site, visit, fault)) = plan {
        mounted.disk.plan_at(site, visit, fault);
    }
    life(&mounted, &mut history, &mut done).await;
    let (sites, struck) = (mounted.disk.sites(), mounted.disk.struck().is_some());
    for how in [Restart::Process, Restart::Machine] {
        mounted.disk.restart(how);
        settle_all(&mounted, &mut history, &done).await;
    }
    (sites, struck)
}

fn every_fault_at_every_place_is_survived(runtime: &Runtime) {
    let (sites, _) = runtime.block_on(run(None));
    assert!(sites.len() >= 40, "only {} places use the disk", sites.len());
    let (mut faults, mut random) = (0, Random::new(0));
    for (site, visits) in &sites {
        for fault in Fault::ALL.into_iter().filter(|fault| fault.fits(visits.kind)) {
            let (_, struck) = runtime.block_on(run(Some((site, 1, fault))));
            assert!(struck, "{site}: {fault:?} did not happen");
            // Whoever reads while another writes may come later or earlier.
            let later = 1 + random.below(visits.count);
            let (_, again) = runtime.block_on(run(Some((site, later, fault))));
            faults += 1 + u64::from(again);
        }
    }
    println!("{faults} faults at {} places", sites.len());
}

#[test]
fn every_fault_is_survived_where_threads_write() {
    every_fault_at_every_place_is_survived(&Builder::new_current_thread().build().unwrap());
}

#[test]
fn every_fault_is_survived_where_callers_write() {
    let mut runtime = Builder::new_multi_thread();
    every_fault_at_every_place_is_survived(&runtime.worker_threads(1).build().unwrap());
}
