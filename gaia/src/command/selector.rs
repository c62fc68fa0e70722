//! `gaia selector`: what a selector means on the workers that there are.

use anyhow::Result;
use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{client::Client, output::Output};

#[derive(Subcommand, Debug)]
pub enum SelectorCommand {
    /// Say which workers suit a selector and why the others do not; the exit code is 1 if none ever can
    Check(CheckArgs),
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// As in 'mem>=16 os=linux !slow ssd~10 tolerate:ci'
    pub selector: String,
    /// Type of the pipeline, which its workers need too
    #[arg(long = "type", value_name = "TYPE", default_value = "")]
    pub kind: String,
    /// Tag of the pipeline, which its workers need too; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// Name or id of the only worker that is meant
    #[arg(long, value_name = "WORKER", default_value = "")]
    pub worker: String,
}

#[derive(Serialize, Deserialize)]
struct Checked {
    valid: bool,
    /// Its one written form.
    selector: String,
    findings: Vec<Finding>,
    /// Names of workers.
    matching: Vec<String>,
    workers: u32,
}

#[derive(Serialize, Deserialize)]
struct Finding {
    severity: String,
    /// Characters from 1; 0: about the whole.
    from: usize,
    to: usize,
    text: String,
}

/// The answer is the exit code.
pub async fn selector(command: SelectorCommand, client: &Client, output: Output) -> Result<u8> {
    let SelectorCommand::Check(args) = command;
    let body = json!({
        "selector": args.selector,
        "type": args.kind,
        "tags": args.tags,
        "worker": args.worker,
    });
    let checked: Checked = client.post("/api/v1/selector/check", &body).await?;
    output.show(&checked, |checked| explained(&args.selector, checked))?;
    Ok(u8::from(!checked.valid))
}

fn explained(text: &str, checked: &Checked) -> String {
    let mut lines = vec![];
    for Finding { severity, from, to, text: why } in &checked.findings {
        if *from > 0 {
            let marks = "^".repeat((to + 1).saturating_sub(*from).max(1));
            lines.push(format!("  {text}\n  {}{marks}", " ".repeat(from - 1)));
        }
        lines.push(format!("{severity}: {why}"));
    }
    if checked.valid {
        lines.push(match checked.matching.as_slice() {
            [] => format!("None of {} workers suits it.", checked.workers),
            names => {
                format!(
                    "{} of {} workers suit it: {}",
                    names.len(),
                    checked.workers,
                    names.join(", ")
                )
            }
        });
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_shown_under_its_place() {
        let finding =
            Finding { severity: "error".into(), from: 5, to: 8, text: "no such thing".into() };
        let checked = Checked {
            valid: false,
            selector: String::new(),
            findings: vec![finding],
            matching: vec![],
            workers: 2,
        };
        let shown = explained("gpu sssd", &checked);
        assert_eq!(shown, "  gpu sssd\n      ^^^^\nerror: no such thing");
    }
}
