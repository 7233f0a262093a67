//! Compiles `proto/` to Rust, without an installed protoc.

use std::error::Error;

const PROTO_FILES: [&str; 2] = ["proto/relaymesh/v1/frames.proto", "proto/relaymesh/v1/message.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(PROTO_FILES, ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
