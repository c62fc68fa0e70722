//! The scheduler as a process of its own.

use std::process::ExitCode;

use svc_scheduler::{Config, Deps, start};

fn main() -> ExitCode {
    host::main("svc-scheduler", |host, config: Config| async move {
        let service = start(Deps { log: host.log, clock: host.clock }, config).await?;
        Ok((service.router, service.task))
    })
}
