//! The pipeline as a command line, for whoever writes it.

use std::{env, error::Error, fmt};

use tokio::runtime::Builder;

use crate::{
    execute::{Ending, execute},
    plan::{Plan, Planned},
};

const HELP: &str = "\
This is a Gaia pipeline; an agent starts it and asks for its jobs. By hand:
  list                     its jobs and their arguments
  graph                    its jobs in the order in which they run
  run [KEY=VALUE]…         runs all jobs, one by one
  run JOB [KEY=VALUE]…     runs one job alone
Arguments that are not given are taken from environment variables of the same name.";

#[derive(Debug)]
pub(crate) struct CliError(String);

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for CliError {}

/// Does what the words say; answers what is to be printed.
pub(crate) fn run(plan: &Plan, words: &[String]) -> Result<String, CliError> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        [] => Ok(format!("{HELP}\n\n{}", list(plan))),
        ["help" | "--help" | "-h"] => Ok(HELP.to_owned()),
        ["list"] => Ok(list(plan)),
        ["graph"] => Ok(graph(plan)),
        ["run", rest @ ..] => run_jobs(plan, rest),
        [other, ..] => Err(CliError(format!("there is no command `{other}`\n\n{HELP}"))),
    }
}

fn list(plan: &Plan) -> String {
    let mut lines = Vec::new();
    for planned in &plan.jobs {
        let job = &planned.job;
        let about = if job.about.is_empty() { String::new() } else { format!(": {}", job.about) };
        lines.push(format!("{}{}{about}", job.title, after(plan, planned)));
        for argument in &job.arguments {
            let default = match argument.default.as_str() {
                "" => String::new(),
                value => format!(", else {value}"),
            };
            lines.push(format!(
                "    {} ({}{default}) {}",
                argument.key, argument.kind, argument.about
            ));
        }
    }
    lines.join("\n")
}

fn graph(plan: &Plan) -> String {
    let line = |planned: &&Planned| {
        format!("{}. {}{}", planned.stage + 1, planned.job.title, after(plan, planned))
    };
    plan.in_order().iter().map(line).collect::<Vec<_>>().join("\n")
}

fn after(plan: &Plan, planned: &Planned) -> String {
    match plan.titles_before(planned).as_slice() {
        [] => String::new(),
        titles => format!(" (after {})", titles.join(", ")),
    }
}

fn run_jobs(plan: &Plan, words: &[&str]) -> Result<String, CliError> {
    let (jobs, pairs) = match words {
        [title, pairs @ ..] if !title.contains('=') => {
            let known =
                || CliError(format!("there is no job `{title}`; there are:\n{}", graph(plan)));
            (vec![plan.by_title(title).ok_or_else(known)?], pairs)
        }
        pairs => (plan.in_order(), pairs),
    };
    let given = pairs.iter().map(|pair| parse_pair(pair)).collect::<Result<Vec<_>, _>>()?;
    let runtime = Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError(format!("could not start threads: {error}")))?;
    for planned in jobs {
        let title = &planned.job.title;
        eprintln!("─ {title}");
        let values = with_environment(planned, &given);
        match runtime.block_on(execute(planned, values, runtime.handle())) {
            Ending::Succeeded => {}
            Ending::StoppedEarly(reason) => {
                return Ok(format!("`{title}` stopped the run early: {reason}"));
            }
            Ending::Failed(message) => {
                return Err(CliError(format!("job `{title}` failed: {message}")));
            }
        }
    }
    Ok("succeeded".to_owned())
}

fn parse_pair(pair: &str) -> Result<(String, String), CliError> {
    let (key, value) = pair
        .split_once('=')
        .ok_or_else(|| CliError(format!("`{pair}` is no argument; write KEY=VALUE")))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What was given comes last and wins.
fn with_environment(planned: &Planned, given: &[(String, String)]) -> Vec<(String, String)> {
    let keys = planned.job.arguments.iter().map(|argument| argument.key.clone());
    let found = keys.filter_map(|key| env::var(&key).ok().map(|value| (key, value)));
    found.chain(given.iter().cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Job, Stop};

    fn by_hand(words: &[&str]) -> Result<String, String> {
        let jobs = vec![
            Job::new("Check", |ctx| async move {
                let number: u8 = ctx.get("number")?;
                if number == 0 { Err(Stop::exit("zero")) } else { Ok(()) }
            })
            .after("Build")
            .text("number", "A small one")
            .default("1"),
            Job::new("Build", |_| async { Ok(()) }).about("Makes it"),
        ];
        let words: Vec<_> = words.iter().map(|word| (*word).to_owned()).collect();
        run(&Plan::new(jobs).expect("a plan"), &words).map_err(|error| error.to_string())
    }

    #[test]
    fn it_shows_the_jobs_and_their_order() {
        let list =
            "Check (after Build)\n    number (textfield, else 1) A small one\nBuild: Makes it";
        assert_eq!(by_hand(&["list"]).as_deref(), Ok(list));
        assert_eq!(by_hand(&["graph"]).as_deref(), Ok("1. Build\n2. Check (after Build)"));
        assert!(by_hand(&[]).is_ok_and(|text| text.ends_with(list)));
    }

    #[test]
    fn it_runs_jobs_and_says_how_they_ended() {
        assert_eq!(by_hand(&["run"]).as_deref(), Ok("succeeded"));
        assert_eq!(by_hand(&["run", "check", "number=7"]).as_deref(), Ok("succeeded"));
        let early = by_hand(&["run", "number=0"]).expect("no failure");
        assert_eq!(early, "`Check` stopped the run early: zero");
        let failed = by_hand(&["run", "Check", "number=256"]).expect_err("a failure");
        assert!(failed.contains("`Check` failed") && failed.contains("too large"), "{failed}");
        let unknown = by_hand(&["run", "Chek"]).expect_err("no such job");
        assert!(unknown.contains("no job `Chek`") && unknown.contains("Check"), "{unknown}");
        assert!(by_hand(&["run", "Check", "number"]).is_err_and(|text| text.contains("KEY=VALUE")));
        assert!(by_hand(&["jump"]).is_err_and(|text| text.contains("no command `jump`")));
    }
}
