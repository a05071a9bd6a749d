//! Turns `proto/loadtest.proto` into Rust, without `protoc`.

use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto");
    let file = folder.join("loadtest.proto");
    println!("cargo::rerun-if-changed={}", file.display());
    let files = protox::compile([&file], [&folder])?;
    tonic_prost_build::configure().btree_map(".").compile_fds(files)?;
    Ok(())
}
