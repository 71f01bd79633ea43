//! Generates the gRPC services from `distwasm/v1/*.proto`; their messages are those of `distwasm-proto`.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../proto/distwasm");
    let files = ["king", "programs", "admin"].map(|name| format!("distwasm/v1/{name}.proto"));
    let mut descriptors = protox::compile(files, ["../proto"])?;
    // The streams of dukes and queens are carried by `src/stream.rs`.
    let services = descriptors.file.iter_mut().flat_map(|file| &mut file.service);
    services
        .filter(|service| service.name() == "King")
        .for_each(|service| service.method.retain(|method| !method.client_streaming()));
    tonic_prost_build::configure().extern_path(".distwasm.v1", "::distwasm_proto::wire").compile_fds(descriptors)?;
    Ok(())
}
