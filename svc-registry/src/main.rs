//! svc-registry as a process of its own. The CA's folder is `ca` in the data folder.

use std::process::ExitCode;

use identity::Authority;
use svc_registry::{Config, Deps, start};

pub(crate) fn main() -> ExitCode {
    host::main("svc-registry", |host, config: Config| async move {
        let deps = Deps {
            authority: Authority::open_or_create(&host.data.join("ca"))?,
            master_key: host.master_key()?,
            log: host.log,
            clock: host.clock,
        };
        let service = start(deps, config).await?;
        Ok((service.router, service.task))
    })
}
