//! The `gaia` program, built where the system stories can find it.

fn main() -> std::process::ExitCode {
    gaia::main()
}
