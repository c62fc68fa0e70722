//! `gaia run logs`: what a run printed, all of it or what one stream or job printed.

use anyhow::{Result, ensure};
use clap::Args;
use http::Method;
use serde::{Deserialize, Serialize};

use super::{follow_log, screen::Screen};
use crate::{api::Run, client::Client, command::segment, output::Output};

/// Which part of a log, and how.
#[derive(Args, Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command")]
pub struct View {
    /// What this attempt printed, from 1 on; without it, the newest
    #[arg(long, conflicts_with = "follow", value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
    /// Before each line the time when it reached the agent
    #[arg(long, conflicts_with = "search")]
    timestamps: bool,
    /// Only what came over standard output
    #[arg(long, conflicts_with_all = ["search", "stderr"])]
    stdout: bool,
    /// Only what came over standard error
    #[arg(long, conflicts_with = "search")]
    stderr: bool,
    /// Only what this job printed (title or id). While several jobs run in one process it cannot be told whose a
    /// line is; those lines are left out
    #[arg(long, conflicts_with = "search")]
    job: Option<String>,
    /// With --job: also lines that it or a job beside it printed
    #[arg(long, requires = "job")]
    unsure: bool,
}

impl View {
    /// Query parameters, each after an `&`.
    fn query(&self) -> String {
        let mut query = String::new();
        for (wanted, parameter) in [
            (self.timestamps, "&timestamps=1"),
            (self.stdout, "&stream=stdout"),
            (self.stderr, "&stream=stderr"),
            (self.unsure, "&unsure=1"),
        ] {
            if wanted {
                query += parameter;
            }
        }
        if let Some(job) = &self.job {
            query = format!("{query}&job={}", segment(job));
        }
        query + &self.of_attempt()
    }

    /// Refuses an attempt that there was not.
    pub(super) fn check(&self, run: &Run) -> Result<()> {
        if let Some(wanted) = self.attempt {
            let made = run.attempts.len();
            let is_known = run.attempts.iter().any(|it| it.attempt == wanted);
            ensure!(is_known, "run {} has no attempt {wanted}: it made {made}", run.uniqueid);
        }
        Ok(())
    }

    fn of_attempt(&self) -> String {
        self.attempt.map(|attempt| format!("&attempt={attempt}")).unwrap_or_default()
    }
}

/// Shows the log, and says on standard error what it lacks.
pub(super) async fn show(
    client: &Client,
    run: &str,
    follow: bool,
    mut screen: Screen,
    view: &View,
) -> Result<()> {
    if follow {
        let show = |text: &str| screen.write(text.as_bytes());
        follow_log(client, run, &view.query(), show).await?;
    } else {
        let path = format!("/api/v1/run/{}/log?raw=1{}", segment(run), view.query());
        screen.write(&client.call(Method::GET, &path, None::<&()>).await?)?;
    }
    screen.end()?;
    let path = format!("/api/v1/run/{}/log?about=1{}", segment(run), view.of_attempt());
    let about: About = client.get(&path).await?;
    if let Some(lack) = about.sealed.and_then(|sealed| sealed.lack()) {
        anstream::eprintln!("{lack}");
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
struct About {
    sealed: Option<Sealed>,
}

#[derive(Debug, Deserialize)]
struct Sealed {
    gaps: u64,
    dropped: u64,
    incomplete: String,
    missing: u64,
}

impl Sealed {
    /// `None`: nothing is missing.
    fn lack(&self) -> Option<String> {
        let mut lacks = vec![];
        if self.gaps > 0 {
            let (gaps, dropped) = (self.gaps, self.dropped);
            lacks.push(format!(
                "{dropped} bytes are missing in {gaps} places: the worker had no room for them"
            ));
        }
        if !self.incomplete.is_empty() {
            let more =
                if self.missing > 0 { format!(" ({} bytes)", self.missing) } else { String::new() };
            lacks.push(format!("its end is missing{more}: {}", self.incomplete));
        }
        (!lacks.is_empty()).then(|| format!("This log is not complete: {}.", lacks.join("; ")))
    }
}

pub(super) async fn search(
    client: &Client,
    run: &str,
    text: &str,
    view: &View,
    output: Output,
) -> Result<()> {
    let (run, text) = (segment(run), segment(text));
    let path = format!("/api/v1/run/{run}/log?search={text}{}", view.of_attempt());
    let found: Found = client.get(&path).await?;
    output.show(&found, |found| {
        let mut lines: Vec<String> = found
            .matches
            .iter()
            // What a log holds must not steer the terminal here.
            .map(|it| {
                format!(
                    "{}: {}",
                    it.line,
                    it.text.replace(|it: char| it.is_control() && it != '\t', "\u{fffd}")
                )
            })
            .collect();
        if found.truncated {
            lines.push("There are more; search for a longer text.".into());
        }
        lines.join("\n")
    })?;
    Ok(())
}

#[derive(Debug, Deserialize, Serialize)]
struct Found {
    attempt: u32,
    matches: Vec<Match>,
    truncated: bool,
}

#[derive(Debug, Deserialize, Serialize)]
struct Match {
    line: u64,
    offset: u64,
    text: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_log_lacks_is_said() {
        let whole = Sealed { gaps: 0, dropped: 0, incomplete: String::new(), missing: 0 };
        assert_eq!(whole.lack(), None);
        let text =
            Sealed { gaps: 2, dropped: 70, incomplete: "too long".into(), missing: 9 }.lack();
        assert_eq!(
            text.unwrap(),
            "This log is not complete: 70 bytes are missing in 2 places: the worker had no room for them; \
             its end is missing (9 bytes): too long."
        );
    }

    #[test]
    fn a_view_is_a_query() {
        let view =
            View { timestamps: true, stderr: true, job: Some("a b".into()), ..View::default() };
        assert_eq!(view.query(), "&timestamps=1&stream=stderr&job=a%20b");
        assert_eq!(View { attempt: Some(2), ..View::default() }.query(), "&attempt=2");
    }

    #[test]
    fn an_attempt_that_there_was_not_is_refused() {
        let run = json!({
            "uniqueid": "u", "id": 1, "pipelineid": 1, "status": "success", "attempts": [{ "attempt": 1, "workerid": "" }],
        });
        let run: Run = serde_json::from_value(run).unwrap();
        let of = |attempt| View { attempt, ..View::default() }.check(&run);
        of(None).unwrap();
        of(Some(1)).unwrap();
        assert_eq!(of(Some(2)).unwrap_err().to_string(), "run u has no attempt 2: it made 1");
    }
}
