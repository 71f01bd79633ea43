//! The engine: one configuration for compiling and for running, so that a compiled program can be loaded anywhere.
//!
//! Nothing that makes guests slower is switched on: no epochs, no fuel, and canonical NaNs only where the same unit
//! must give the same bytes everywhere. Timeouts are enforced from outside, by killing the process.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use distwasm_proto::limits::{
    COMPONENT_CORE_INSTANCES_MAX, GUEST_STACK_BYTES, GUEST_TABLE_ELEMENTS_MAX, HOST_STACK_BYTES,
    POOL_INSTANCE_BYTES_MAX, POOL_RESIDENT_BYTES, POOL_RESIDENT_BYTES_WITH_SWAP,
};
use wasmtime::{
    Collector, Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, ResourcesRequired, Result,
    WasmBacktraceDetails,
};

use crate::program::Protection;
use crate::sandbox;

/// What engines differ in, besides where they allocate instances.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kind {
    /// Changes compiled programs.
    pub deterministic: bool,
    /// The code is in [`Mapped`](crate::program::Mapped) files.
    pub mapped: bool,
    /// The stack of guests. It changes nothing about compiled programs.
    pub stack_bytes: Option<usize>,
}

/// The configuration that all engines share.
fn engine_config(kind: Kind) -> Config {
    let mut config = Config::new();
    if kind.deterministic {
        config.cranelift_nan_canonicalization(true).relaxed_simd_deterministic(true);
    }
    let stack_bytes = kind.stack_bytes.unwrap_or(GUEST_STACK_BYTES);
    // Components run on a stack of their own, which has room for the functions that they call, too.
    config.max_wasm_stack(stack_bytes).async_stack_size(stack_bytes.saturating_add(HOST_STACK_BYTES));
    // Named, because compiled programs are tied to it. It cannot free cycles; those are freed with their instance.
    config.collector(Collector::DeferredReferenceCounting);
    // Never taken from the environment: the compiling and the running process must agree.
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config.parallel_compilation(HAS_COMPILERS.load(Ordering::Relaxed));
    if kind.mapped {
        config.with_custom_code_memory(Some(Arc::new(Protection)));
    }
    config
}

/// Whether there are threads that compile.
static HAS_COMPILERS: AtomicBool = AtomicBool::new(false);

/// The number of threads that compile a program together. To be asked before the process enters the jail, where the
/// files that tell it are not seen.
pub fn compilers() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// Starts the threads that compile a program together, because none can be started later. Without them one thread
/// compiles alone.
pub fn start_compilers(count: usize) {
    let started = rayon::ThreadPoolBuilder::new().num_threads(count).build_global();
    HAS_COMPILERS.store(started.is_ok(), Ordering::Relaxed);
}

/// An engine that allocates each instance anew: for compiling, and for long-lived instances.
pub fn plain(kind: Kind) -> Result<Engine> {
    Engine::new(&engine_config(kind))
}

/// An engine with a pool for one instance with these needs, which makes fresh instances in microseconds.
///
/// The bounds of the pool are wide, because its memory is taken only when touched. The guest's store enforces the
/// guest's own bounds.
pub fn pooled(needs: &ResourcesRequired, kind: Kind) -> Result<Engine> {
    // Objects and exceptions lie in a memory of their own, which is taken when the first one is made.
    let heaps = 1;
    let memories = needs.num_memories.max(1);
    let tables = needs.num_tables.max(1);
    let table_elements = usize::try_from(needs.max_initial_table_size.unwrap_or(0)).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    // A component is made of several modules, each with an instance.
    pool.total_core_instances(COMPONENT_CORE_INSTANCES_MAX).max_core_instance_size(POOL_INSTANCE_BYTES_MAX);
    pool.total_component_instances(1).max_component_instance_size(POOL_INSTANCE_BYTES_MAX);
    pool.max_core_instances_per_component(COMPONENT_CORE_INSTANCES_MAX);
    pool.max_memories_per_component(memories).max_tables_per_component(tables);
    pool.total_memories(memories.saturating_add(heaps)).max_memories_per_module(memories).total_gc_heaps(heaps);
    pool.total_tables(tables).max_tables_per_module(tables);
    pool.table_elements(table_elements.max(GUEST_TABLE_ELEMENTS_MAX));
    pool.total_stacks(1);
    if sandbox::has_swap() {
        pool.linear_memory_keep_resident(POOL_RESIDENT_BYTES_WITH_SWAP).pagemap_scan(Enabled::No);
    } else if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.linear_memory_keep_resident(POOL_RESIDENT_BYTES).pagemap_scan(Enabled::Auto);
    } else {
        // Without the scan, all resident memory is cleared each time, touched or not.
        pool.linear_memory_keep_resident(POOL_RESIDENT_BYTES_WITH_SWAP).pagemap_scan(Enabled::No);
    }
    Engine::new(engine_config(kind).allocation_strategy(InstanceAllocationStrategy::Pooling(pool)))
}

/// A word that differs between two peasants if one cannot load programs that the other compiled.
pub fn fingerprint(engine: &Engine) -> String {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    engine.precompile_compatibility_hash().hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmtime::Module;

    #[test]
    fn pooled_engines_load_what_plain_ones_compiled() {
        let plain = plain(Kind::default()).unwrap();
        let module = Module::new(&plain, "(module (memory (export \"memory\") 3) (table 7 funcref))").unwrap();
        let pooled = pooled(&module.resources_required(), Kind::default()).unwrap();
        // SAFETY: the bytes come straight from `serialize`.
        let loaded = unsafe { Module::deserialize(&pooled, module.serialize().unwrap()) };
        assert!(loaded.is_ok(), "{loaded:?}");
        assert_eq!(fingerprint(&plain), fingerprint(&pooled));
    }
}
