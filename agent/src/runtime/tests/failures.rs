//! Programs that are no pipelines, and what is said about them.

use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::runtime::{Exit, plugin::start_within};

#[tokio::test]
async fn a_program_that_ends_is_refused_with_its_status_and_last_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = "echo to stdout; echo no module named six >&2; exit 3";
    let error = refusal(shell(script, folder.path())).await;
    assert!(matches!(error, StartError::Ended { exit: Exit::Code(3), .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("exit status 3") && text.contains("no module named six"), "{text}");
    assert!(text.contains("to stdout"), "{text}");
}

#[tokio::test]
async fn a_program_that_only_talks_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let error = refusal(shell("exec yes nonsense", folder.path())).await;
    assert!(matches!(error, StartError::Noise { .. }), "{error:?}");
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[tokio::test]
async fn a_program_that_says_nothing_is_refused_and_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let (sender, mut output) = Collected::new();
    let launch = shell("echo pid $$; exec sleep 1000", folder.path());
    let start = start_within(launch, sender, Duration::from_secs(1));
    let (started, pid) = tokio::join!(start, output.after("pid "));
    let error = started.expect_err("no pipeline");
    assert!(matches!(error, StartError::Silent { .. }), "{error:?}");
    gone(&pid).await;
}

#[tokio::test]
async fn other_protocols_are_refused_with_what_they_are() {
    let folder = tempfile::tempdir().expect("a folder");
    for (line, hint) in [
        ("1|3|tcp|127.0.0.1:1|grpc", "version 1|3"),
        ("1|2|tcp|127.0.0.1:1", "net/rpc"),
        ("1|2|tcp|127.0.0.1:1|netrpc", "`netrpc`"),
    ] {
        let error = refusal(shell(&format!("echo '{line}'; exec sleep 1000"), folder.path())).await;
        assert!(matches!(error, StartError::Handshake { .. }), "{error:?}");
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn a_listener_that_is_none_is_refused_with_its_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = silent.local_addr().expect("an address");
    let hang_up = async move {
        while let Ok((socket, _)) = silent.accept().await {
            drop(socket);
        }
    };
    let hang_up = tokio::spawn(hang_up);
    let script = format!("echo '1|2|tcp|{address}|grpc'; exec sleep 1000");
    let error = refusal(shell(&script, folder.path())).await;
    assert!(matches!(error, StartError::Connect { .. }), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
    hang_up.abort();
}

#[tokio::test]
async fn what_cannot_even_start_is_refused_with_a_hint() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pipeline");
    let launch = Launch { program: file.clone(), args: vec![], ..shell("", folder.path()) };
    let missing = refusal(launch.clone()).await.to_string();
    assert!(missing.contains("no such program"), "{missing}");
    std::fs::write(&file, [0x7f, b'E', b'L', b'F', 9, 9]).expect("a file");
    let plain = refusal(launch.clone()).await.to_string();
    assert!(plain.contains("not executable"), "{plain}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).expect("a mode");
    let foreign = refusal(launch.clone()).await.to_string();
    assert!(foreign.contains("another system"), "{foreign}");
    let homeless = refusal(Launch { cwd: folder.path().join("none"), ..launch }).await.to_string();
    assert!(homeless.contains("working folder"), "{homeless}");
}

#[tokio::test]
async fn a_start_can_be_cancelled_and_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let cancel = CancellationToken::new();
    let (sender, mut output) = Collected::new();
    let launch = shell("echo pid $$; exec sleep 1000", folder.path());
    let stop = async {
        let pid = output.after("pid ").await;
        cancel.cancel();
        pid
    };
    let (result, pid) = tokio::join!(Plugin::start(launch, sender, &cancel), stop);
    assert!(matches!(result, Err(StartError::Cancelled)), "{result:?}");
    gone(&pid).await;
}

#[tokio::test]
async fn a_program_written_a_moment_ago_starts_though_others_fork() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fresh");
    std::fs::copy("/bin/sh", &file).expect("a copy");
    let held = std::fs::OpenOptions::new().append(true).open(&file).expect("to hold it open");
    let launch = Launch { program: file, ..shell("exit 7", folder.path()) };
    let let_go = async {
        tokio::task::yield_now().await;
        drop(held);
    };
    let (error, ()) = tokio::join!(refusal(launch), let_go);
    assert!(matches!(error, StartError::Ended { exit: Exit::Code(7), .. }), "{error:?}");
}
