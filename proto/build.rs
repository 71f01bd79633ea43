//! Generates the gRPC code from `distwasm/v1/king.proto`, without an installed `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=distwasm");
    if env::var_os("CARGO_FEATURE_GRPC").is_none() {
        return Ok(());
    }
    let mut descriptors = protox::compile(["distwasm/v1/king.proto"], ["."])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Streams are carried by `src/stream.rs`.
    let services = descriptors.file.iter_mut().flat_map(|file| &mut file.service);
    services.for_each(|service| service.method.retain(|method| !method.client_streaming()));
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
