//! The relaymesh command.

use std::process::ExitCode;

fn main() -> ExitCode {
    relaymesh::cli::run()
}
