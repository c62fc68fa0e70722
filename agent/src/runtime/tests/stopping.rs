//! Ends: in order, by cancel, by violence. Nothing is left behind and no output is lost.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::runtime::{Exit, PluginError};

#[tokio::test]
async fn all_output_arrives_also_a_last_line_without_a_newline() {
    let pipeline = Running::new("diamond").await;
    let (outcome, _) =
        run(&pipeline.plugin, &pipeline.jobs, &HashMap::new(), CancellationToken::new()).await;
    assert_eq!(outcome, GraphOutcome::Succeeded);
    let exit = pipeline.plugin.stop(Duration::from_secs(5)).await;
    assert_eq!(exit, Exit::Code(0), "our SDK ends by itself when asked");
    let scratch = pipeline.scratch.path().join("plugin");
    let mode = std::fs::metadata(&scratch).expect("the folder").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let names = std::fs::read_dir(&scratch).expect("the folder").flatten().map(|file| file.path());
    let left: Vec<_> = names.filter(|path| path.extension() != Some("pem".as_ref())).collect();
    assert!(left.is_empty(), "the socket is left: {left:?}");
    let mut output = pipeline.output;
    timeout(DEADLINE, &mut output.task).await.expect("the output ends").expect("no panic");
    let all = output.so_far.borrow().clone();
    assert!(all[&Stream::Stderr].ends_with("no newline at the end"), "{all:?}");
    assert!(all[&Stream::Stdout].ends_with("nor here"), "{all:?}");
    assert!(!all[&Stream::Stdout].contains("1|2|"), "the handshake is no output: {all:?}");
}

#[tokio::test]
async fn a_killed_pipeline_is_a_crash_that_names_the_signal_and_the_job() {
    let mut pipeline = Running::new("troubled").await;
    let pid = {
        let running = pipeline.plugin.execute(pipeline.id("Waits"), &[]);
        let kill_it = async {
            let pid = pipeline.output.after("pid ").await;
            let number = Pid::from_raw(pid.parse().expect("a process id"));
            kill(number, nix::sys::signal::SIGKILL).expect("to kill it");
            pid
        };
        let (result, pid) = tokio::join!(timeout(DEADLINE, running), kill_it);
        let error = result.expect("an end").expect_err("a crash");
        assert!(matches!(error, PluginError::Ended { exit: Exit::Signal(9), .. }), "{error:?}");
        let text = error.to_string();
        assert_eq!(text, "the pipeline process ended with signal 9 while job `Waits` ran");
        pid
    };
    gone(&pid).await;
    let (outcome, updates) = pipeline.run(&["Waits", "Exits"], CancellationToken::new()).await;
    let GraphOutcome::Crashed { exit, message, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(exit, Exit::Signal(9));
    assert!(message.contains("`Waits`") && message.contains("`Exits`"), "{message}");
    assert!(matches!(updates.last(), Some((_, JobTransition::Failed { .. }))), "{updates:?}");
    assert_eq!(pipeline.plugin.stop(Duration::from_secs(5)).await, Exit::Signal(9));
}

#[tokio::test]
async fn cancel_ends_the_run_and_stop_ends_the_grandchildren() {
    let mut pipeline = Running::new("troubled").await;
    let cancel = CancellationToken::new();
    let (pid, outcome, updates) = {
        let mut output = std::mem::replace(&mut pipeline.output, Collected::new().1);
        let run = pipeline.run(&["Spawns"], cancel.clone());
        let stop = async {
            let pid = output.after("pid ").await;
            cancel.cancel();
            pid
        };
        let ((outcome, updates), pid) = tokio::join!(run, stop);
        (pid, outcome, updates)
    };
    assert_eq!(outcome, GraphOutcome::Cancelled);
    assert_eq!(updates.last(), Some(&("Spawns".to_owned(), JobTransition::Cancelled)));
    pipeline.plugin.stop(Duration::from_millis(200)).await;
    gone(&pid).await;
}

#[tokio::test]
async fn what_left_the_group_and_prints_for_ever_holds_no_pipeline() {
    let mut pipeline = Running::new("troubled").await;
    let cancel = CancellationToken::new();
    let mut output = std::mem::replace(&mut pipeline.output, Collected::new().1);
    let (outcome, pid) = {
        let run = pipeline.run(&["Escapes"], cancel.clone());
        let stop = async {
            let pid = output.after("pid ").await;
            cancel.cancel();
            pid
        };
        let ((outcome, _), pid) = tokio::join!(run, stop);
        (outcome, Pid::from_raw(pid.parse().expect("a process id")))
    };
    assert_eq!(outcome, GraphOutcome::Cancelled);
    let stopped = timeout(DEADLINE, pipeline.plugin.stop(Duration::from_millis(200))).await;
    // Nobody else ends it; once its pipe is closed it would end by itself.
    kill(pid, nix::sys::signal::SIGKILL).ok();
    stopped.expect("the attempt ends");
}

#[tokio::test]
async fn dropping_a_plugin_kills_all_of_it() {
    let mut pipeline = Running::new("troubled").await;
    let job = pipeline.id("Spawns");
    let mut output = std::mem::replace(&mut pipeline.output, Collected::new().1);
    let pid = tokio::select! {
        ended = pipeline.plugin.execute(job, &[]) => panic!("it never ends: {ended:?}"),
        pid = output.after("pid ") => pid,
    };
    drop(pipeline);
    gone(&pid).await;
}

#[tokio::test]
async fn an_id_that_the_pipeline_did_not_give_is_never_sent() {
    let pipeline = Running::new("troubled").await;
    let error = pipeline.plugin.execute(1, &[]).await.expect_err("no such job");
    assert!(matches!(error, PluginError::UnknownJob(1)), "{error:?}");
}
