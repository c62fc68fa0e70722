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
