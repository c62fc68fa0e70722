//! What runs print reaches whoever reads it, live and whole.

use std::{io::Write as _, process::Stdio};

use anyhow::Result;
use serde_json::{Value, json};
use tests::{Cluster, Setting};

use crate::{cluster_of_one, program, story_pipeline};

#[tokio::test]
async fn a_log_is_followed_live_and_is_whole_at_the_end() -> Result<()> {
    let (cluster, pipeline) = cluster_of_one().await?;
    let gate = cluster.home("gate");
    let arguments = json!([
        { "key": "gate", "value": gate },
        { "key": "lines", "value": "2000" },
    ]);
    let run = cluster.start_run(&pipeline, json!({ "args": arguments })).await?;
    let mut seen = String::new();
    // The gate opens only when its line has been seen: a log that comes at the end would hang here.
    gaia::command::run::follow_log(&cluster.client, &run.uniqueid, "", |piece| {
        seen.push_str(piece);
        if seen.contains("waiting as process") {
            std::fs::write(&gate, "")?;
        }
        Ok(())
    })
    .await?;
    assert!(seen.contains("the gate is open"), "{seen}");
    for line in 0..2000 {
        assert!(seen.contains(&format!("line {line} of 2000\n")), "line {line} is missing");
    }
    assert_eq!(cluster.log(&run.uniqueid).await?, seen);
    Ok(())
}

#[tokio::test]
async fn a_vault_secret_reaches_the_job_and_never_the_log() -> Result<()> {
    let (cluster, pipeline) = cluster_of_one().await?;
    let run = cluster
        .start_run(&pipeline, json!({ "args": [{ "key": "leak", "value": "true" }] }))
        .await?;
    let run = cluster.ended(&run.uniqueid).await?;
    let log = cluster.log(&run.uniqueid).await?;
    assert_eq!(run.status, "success", "{log}");
    assert!(log.contains(&format!("the secret has {} bytes", tests::SECRET.len())), "{log}");
    assert!(log.contains("***") && !log.contains("s3cr=et") && !log.contains("two lines"), "{log}");
    Ok(())
}

#[tokio::test]
async fn a_line_is_told_to_be_of_its_job_and_stream() -> Result<()> {
    let (cluster, pipeline) = cluster_of_one().await?;
    let run = cluster.start_run(&pipeline, json!({})).await?;
    let run = cluster.ended(&run.uniqueid).await?;
    let path = format!("/api/v1/run/{}/log?raw=1", run.uniqueid);
    let shown = async |query: &str| -> Result<String> {
        let path = format!("{path}{query}");
        let bytes = cluster.client.call(http::Method::GET, &path, None::<&()>).await?;
        Ok(String::from_utf8(bytes.to_vec())?)
    };
    // One job after another in one process: whose a line is is known exactly.
    assert_eq!(shown("&job=Begin&stream=stdout").await?, "begin\n");
    assert_eq!(shown("&job=Begin&stream=stderr").await?, "begin aloud\n");
    assert_eq!(shown("&job=Work").await?, "line 0 of 1\n");
    assert_eq!(shown("&job=End").await?, "end\n");
    let whole = shown("").await?;
    let timed = shown("&timestamps=1").await?;
    for (line, timed) in whole.lines().zip(timed.lines()) {
        let (time, text) = timed.split_once(' ').expect("a time and a line");
        assert_eq!(text, line);
        assert!(time.starts_with("20") && time.ends_with('Z'), "{timed}");
    }
    let about: Value =
        cluster.client.get(&format!("/api/v1/run/{}/log?about=1", run.uniqueid)).await?;
    assert_eq!(about["sealed"]["size"], whole.len());
    assert_eq!(about["sealed"]["sha256"], ids::Digest::of(whole.as_bytes()).to_string());
    Ok(())
}

#[tokio::test]
async fn a_log_that_is_refused_for_good_ends_as_it_is_and_says_why() -> Result<()> {
    let setting =
        Setting { service: "svc-logs", lines: "max_log_bytes = 500000\n", environment: &[] };
    let mut cluster = Cluster::start_apart(program(), &[setting], |_| Ok(())).await?;
    cluster.agent("one", &[]).await?;
    let pipeline = cluster.pipeline_of("story", story_pipeline(), &[]).await?;
    let arguments =
        json!([{ "key": "lines", "value": "10000" }, { "key": "width", "value": "199" }]);
    let run = cluster.start_run(&pipeline, json!({ "args": arguments })).await?;
    // The worker does not wait for what will never come.
    let run = cluster.ended(&run.uniqueid).await?;
    assert_eq!((run.status.as_str(), run.attempts.len()), ("success", 1), "{}", run.reason);
    let path = format!("/api/v1/run/{}/log", run.uniqueid);
    let about: Value = cluster.client.get(&format!("{path}?about=1")).await?;
    let sealed = &about["sealed"];
    let why = sealed["incomplete"].as_str().unwrap_or_default();
    assert!(why.contains("more than 500000 bytes"), "{about}");
    let (size, missing) = (sealed["size"].as_u64(), sealed["missing"].as_u64());
    assert!(size <= Some(500_000) && missing >= Some(1_500_000), "{about}");
    assert_eq!(cluster.log(&run.uniqueid).await?.len() as u64, size.unwrap_or_default());
    Ok(())
}

/// What a terminal would obey, and what no text holds.
const HOSTILE: &[u8] =
    b"\x1b[2J\x1b]0;pwned\x07 \xff\xfe \0 \xc3( \r over \x1b[31mred\x1b[0m \x9b6n\n";

/// `GAIA_LINE=1000`: a line of so many MB.
#[tokio::test]
async fn whatever_is_printed_is_kept_byte_for_byte() -> Result<()> {
    let (cluster, pipeline) = cluster_of_one().await?;
    let megabytes: usize = std::env::var("GAIA_LINE").map_or(Ok(20), |text| text.parse())?;
    let printed = cluster.home("printed");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&printed)?);
    file.write_all(HOSTILE)?;
    // One line, of which every byte value is a part but its end.
    let piece: Vec<u8> = (0..=255).filter(|byte| *byte != b'\n').cycle().take(1_000_000).collect();
    for _ in 0..megabytes {
        file.write_all(&piece)?;
    }
    file.write_all(b"\n")?;
    file.into_inner()?;
    let arguments = json!([{ "key": "print", "value": printed }]);
    let started = cluster.start_run(&pipeline, json!({ "args": arguments })).await?;
    let mut run = cluster.ended(&started.uniqueid).await;
    // A test's build is slow with much.
    for _ in 0..megabytes / 200 {
        run = cluster.ended(&started.uniqueid).await;
    }
    let run = run?;
    assert_eq!(run.status, "success", "{}", run.reason);
    let path = format!("/api/v1/run/{}/log", run.uniqueid);
    let work = format!("{path}?raw=1&job=Work&stream=stdout");
    let bytes = cluster.client.call(http::Method::GET, &work, None::<&()>).await?;
    let printed = std::fs::read(&printed)?;
    assert!(bytes.starts_with(&printed), "{} bytes of {}", bytes.len(), printed.len());
    assert_eq!(&bytes[printed.len()..], b"line 0 of 1\n");
    let whole = format!("{path}?raw=1");
    let whole = cluster.client.call(http::Method::GET, &whole, None::<&()>).await?;
    let about: Value = cluster.client.get(&format!("{path}?about=1")).await?;
    assert_eq!(about["sealed"]["sha256"], ids::Digest::of(&whole).to_string());
    assert_eq!(about["sealed"]["gaps"], 0);
    Ok(())
}

#[tokio::test]
async fn a_terminal_is_shown_control_sequences_and_obeys_none() -> Result<()> {
    let (cluster, pipeline) = cluster_of_one().await?;
    let printed = cluster.home("printed");
    std::fs::write(&printed, HOSTILE)?;
    let arguments = json!([{ "key": "print", "value": printed }]);
    let run = cluster.start_run(&pipeline, json!({ "args": arguments })).await?;
    let run = cluster.ended(&run.uniqueid).await?;
    let environment = cluster.environment().await?;
    for (more, is_raw) in [("", false), ("--follow", false), ("--raw", true), ("--raw -f", true)] {
        let words = format!("'{}' run logs {} {more}", program().display(), run.uniqueid);
        let mut command = std::process::Command::new("script");
        command.args(["--quiet", "--return", "--command", &words, "/dev/null"]);
        let on_terminal = command.envs(environment.clone()).stdin(Stdio::null()).output()?;
        let shown = &on_terminal.stdout;
        let holds = |text: &[u8]| shown.windows(text.len()).any(|it| it == text);
        assert!(holds(b"begin") && holds(b"end"), "{}", shown.escape_ascii());
        assert_eq!(holds(b"\x1b[2J"), is_raw, "{more}: {}", shown.escape_ascii());
        assert_eq!(holds(b"\x1b]0;"), is_raw, "{more}: {}", shown.escape_ascii());
        assert_eq!(holds(b"^[[2J^[]0;pwned^G"), !is_raw, "{more}: {}", shown.escape_ascii());
        assert!(holds(b"\x1b[31mred\x1b[0m"), "{more}: {}", shown.escape_ascii());
        if !more.contains("-f") {
            // Into a pipe it goes as it was printed.
            let mut command = std::process::Command::new("sh");
            let piped = command.args(["-c", &words]).envs(environment.clone()).output()?.stdout;
            assert!(
                piped.windows(HOSTILE.len()).any(|it| it == HOSTILE),
                "{}",
                piped.escape_ascii()
            );
        }
    }
    Ok(())
}
