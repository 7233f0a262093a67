//! The relaymesh command.

use std::process::ExitCode;

/// Bodies are made and freed at the rate of the messages, and grow the heap by gigabytes: this allocator does both
/// with a fraction of the system calls of the C library's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    relaymesh::cli::run()
}
