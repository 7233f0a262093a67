//! The relaymesh command.

fn main() {}
