//! Generates the gRPC service from `distwasm/v1/king.proto`; its messages are those of `distwasm-proto`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto/distwasm");
    let mut descriptors = protox::compile(["distwasm/v1/king.proto"], ["../proto"])?;
    // Streams are carried by `src/stream.rs`.
    let services = descriptors.file.iter_mut().flat_map(|file| &mut file.service);
    services.for_each(|service| service.method.retain(|method| !method.client_streaming()));
    tonic_prost_build::configure().extern_path(".distwasm.v1", "::distwasm_proto::wire").compile_fds(descriptors)?;
    Ok(())
}
