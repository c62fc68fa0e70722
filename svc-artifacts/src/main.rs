//! svc-artifacts as a process of its own. Its files are in the data folder, unless `data` or `bucket` under
//! `[service]` says otherwise.

use std::process::ExitCode;

use svc_artifacts::{Config, Deps, start};

pub(crate) fn main() -> ExitCode {
    host::main("svc-artifacts", |host, mut config: Config| async move {
        config.data = host.data.join(config.data);
        let service = start(Deps { log: host.log, clock: host.clock }, config).await?;
        Ok((service.router, service.task))
    })
}
