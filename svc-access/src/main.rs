//! Users, logins and the vault.

fn main() {}
