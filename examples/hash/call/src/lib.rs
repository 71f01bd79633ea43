//! Hash as a module that imports nothing and exports one function of integers.
#![no_std]

#[path = "../../src/search.rs"]
mod search;
#[path = "../../src/sha256.rs"]
mod sha256;

/// The smallest counter that gives so many zeros. Traps when there cannot be so many.
#[no_mangle]
pub extern "C" fn run(input: i64, zeros: i64) -> i64 {
    if zeros < 0 || zeros > i64::from(search::ZEROS_MAX) {
        core::arch::wasm32::unreachable();
    }
    search::find(input, zeros as u32) as i64
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}
