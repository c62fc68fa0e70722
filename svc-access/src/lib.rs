//! Users, logins and the vault.
