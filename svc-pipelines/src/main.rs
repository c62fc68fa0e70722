//! svc-pipelines as a process of its own.

use std::process::ExitCode;

use proto::scheduler::v1::scheduler_client::SchedulerClient;
use svc_pipelines::{Config, Deps, start};

pub(crate) fn main() -> ExitCode {
    host::main("svc-pipelines", |host, config: Config| async move {
        let deps = Deps {
            scheduler: SchedulerClient::new(host.scheduler()?),
            master_key: host.master_key()?,
            log: host.log,
            clock: host.clock,
        };
        let service = start(deps, config).await?;
        Ok((service.router, service.task))
    })
}
