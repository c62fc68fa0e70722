//! svc-access as a process of its own.
//!
//! `GAIA_ADMIN_PASSWORD` holds the password of `admin` for the very first start; without it, one is
//! generated and printed.

use std::{env, process::ExitCode};

use secrecy::ExposeSecret as _;
use svc_access::{Config, Deps, start};

pub(crate) fn main() -> ExitCode {
    host::main("svc-access", |host, config: Config| async move {
        let deps = Deps {
            master_key: host.master_key()?,
            log: host.log,
            clock: host.clock,
            data: host.data,
        };
        let admin_password = env::var("GAIA_ADMIN_PASSWORD").ok().map(Into::into);
        let service = start(deps, Config { admin_password, ..config }).await?;
        if let Some(password) = service.first_admin_password {
            println!("user: admin\npassword: {}", password.expose_secret());
        }
        Ok((service.router, service.task))
    })
}
