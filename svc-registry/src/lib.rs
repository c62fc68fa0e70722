//! Registers workers, gives them certificates, knows which are alive.
