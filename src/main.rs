//! Parse, dispatch, exit code; nothing else.

fn main() -> std::process::ExitCode {
    piaas_bake::cli::main()
}
