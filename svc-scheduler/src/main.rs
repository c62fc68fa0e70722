//! The scheduler as a process of its own.

use std::process::ExitCode;

use svc_scheduler::{Config, Deps, Seat, start_in_seat};

pub(crate) fn main() -> ExitCode {
    host::main("svc-scheduler", |host, config: Config| async move {
        let address = match &config.address {
            Some(address) => address.clone(),
            None => host.address()?,
        };
        let seat = Seat { address, dial: host.dial("svc-scheduler"), stop: host.shutdown };
        let service = start_in_seat(Deps { log: host.log, clock: host.clock }, config, seat)?;
        Ok((service.router, service.task))
    })
}
