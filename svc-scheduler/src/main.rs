//! The scheduler as a process of its own.

use std::process::ExitCode;

use svc_scheduler::{Config, Deps, Seat, start_in_seat};

pub(crate) fn main() -> ExitCode {
    host::main("svc-scheduler", |host, config: Config| async move {
        // A name may stay when the process behind it is another one.
        let (address, is_bound) = match &config.address {
            Some(address) => (address.clone(), false),
            None => (host.address()?, true),
        };
        let seat =
            Seat { address, is_bound, dial: host.dial("svc-scheduler"), stop: host.shutdown };
        let service = start_in_seat(Deps { log: host.log, clock: host.clock }, config, seat)?;
        Ok((service.router, service.task))
    })
}
