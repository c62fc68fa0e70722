//! The `gaia` program; everything is in the library.

fn main() -> std::process::ExitCode {
    gaia::main()
}
