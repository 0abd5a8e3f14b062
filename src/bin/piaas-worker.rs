//! Parse, dispatch, exit code; nothing else.
//!
//! The agent is compiled into this binary by itself, not linked from the library: what the library holds beside it (the
//! tables for unwinding alone) would make it twice as large, and it travels in every image.

#[path = "../worker/mod.rs"]
#[expect(dead_code, reason = "the library uses the rest")]
mod worker;

fn main() -> std::process::ExitCode {
    worker::cli::main()
}
