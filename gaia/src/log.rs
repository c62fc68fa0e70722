//! `gaia log`: the log's own files, looked at without a server, and the log as a server of its own.
//!
//! In reading order: `files` (inspect, verify, stats, repair, scavenge), `export` (export, import), `line` (an
//! event as a line of an export).

mod export;
mod files;
mod line;

use anyhow::Result;
use clap::Subcommand;

use crate::{
    output::Output,
    served_log::{self, ConformanceArgs, ServeArgs, UserArgs},
};
use export::{ExportArgs, ImportArgs};
pub(crate) use files::must_hold_a_log;
use files::{InspectArgs, LogArgs, RepairArgs};

#[derive(Subcommand, Debug)]
pub(crate) enum LogCommand {
    /// Serve a log to separate services and to clients of EventStoreDB
    Serve(ServeArgs),
    /// Print a user's line for `gaia log serve --users`; the password comes by the standard input
    User(UserArgs),
    /// Check what the services rely on against a cluster of EventStoreDB, or any server of its protocol
    Conformance(ConformanceArgs),
    /// Check every record and the hash chain of a log
    Verify(LogArgs),
    /// Show the files of a log, or its records with their places and hashes
    Inspect(InspectArgs),
    /// Count events, streams and bytes
    Stats(LogArgs),
    /// Cut what a log's end or damage left, and keep the cut bytes beside it
    Repair(RepairArgs),
    /// Take what streams hide (deleted, truncated, too old) out of the files; the chain still holds
    Scavenge(LogArgs),
    /// Write the events as JSON Lines or CloudEvents, without what is secret
    Export(ExportArgs),
    /// Make a log of an export that was made with `--raw`
    Import(ImportArgs),
}

/// The answer is the exit code.
pub(crate) async fn log(command: LogCommand, output: Output) -> Result<u8> {
    let done = match command {
        LogCommand::Serve(args) => served_log::serve(args, host::shutdown()?).await,
        LogCommand::User(args) => served_log::user(args),
        LogCommand::Conformance(args) => return served_log::conformance(args, output).await,
        LogCommand::Verify(args) => files::verify(&args, output),
        LogCommand::Inspect(args) => files::inspect(&args, output),
        LogCommand::Stats(args) => files::stats(&args, output),
        LogCommand::Repair(args) => files::repair(&args, output),
        LogCommand::Scavenge(args) => files::scavenge(&args, output),
        LogCommand::Export(args) => export::export(&args).await,
        LogCommand::Import(args) => export::import(&args, output),
    };
    done.map(|()| 0)
}
