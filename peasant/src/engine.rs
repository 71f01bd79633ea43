//! The engine: one configuration for compiling and for running, so that a compiled program can be loaded anywhere.
//!
//! Nothing that makes guests slower is switched on: no epochs, no fuel, and canonical NaNs only where the same unit
//! must give the same bytes everywhere. Timeouts are enforced from outside, by killing the process.

use std::hash::{DefaultHasher, Hash, Hasher};

use distwasm_proto::limits::{
    COMPONENT_CORE_INSTANCES_MAX, GUEST_STACK_BYTES, GUEST_TABLE_ELEMENTS_MAX, POOL_INSTANCE_BYTES_MAX,
    POOL_RESIDENT_BYTES, POOL_RESIDENT_BYTES_WITH_SWAP,
};
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, ResourcesRequired, Result,
    WasmBacktraceDetails,
};

use crate::sandbox;

/// The configuration that all engines share. Engines differ in where they allocate instances, which does not change
/// compiled programs. `deterministic` does change them.
fn engine_config(deterministic: bool) -> Config {
    let mut config = Config::new();
    if deterministic {
        config.cranelift_nan_canonicalization(true).relaxed_simd_deterministic(true);
    }
    config.max_wasm_stack(GUEST_STACK_BYTES);
    // Never taken from the environment: the compiling and the running process must agree.
    config.wasm_backtrace_details(WasmBacktraceDetails::Enable);
    config
}

/// An engine that allocates each instance anew: for compiling, and for long-lived instances.
pub fn plain(deterministic: bool) -> Result<Engine> {
    Engine::new(&engine_config(deterministic))
}

/// An engine with a pool for one instance with these needs, which makes fresh instances in microseconds.
///
/// The bounds of the pool are wide, because its memory is taken only when touched. The guest's store enforces the
/// guest's own bounds.
pub fn pooled(needs: &ResourcesRequired, deterministic: bool) -> Result<Engine> {
    let memories = needs.num_memories.max(1);
    let tables = needs.num_tables.max(1);
    let table_elements = usize::try_from(needs.max_initial_table_size.unwrap_or(0)).unwrap_or(usize::MAX);
    let mut pool = PoolingAllocationConfig::new();
    // A component is made of several modules, each with an instance.
    pool.total_core_instances(COMPONENT_CORE_INSTANCES_MAX).max_core_instance_size(POOL_INSTANCE_BYTES_MAX);
    pool.total_component_instances(1).max_component_instance_size(POOL_INSTANCE_BYTES_MAX);
    pool.max_core_instances_per_component(COMPONENT_CORE_INSTANCES_MAX);
    pool.max_memories_per_component(memories).max_tables_per_component(tables);
    pool.total_memories(memories).max_memories_per_module(memories);
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
    Engine::new(engine_config(deterministic).allocation_strategy(InstanceAllocationStrategy::Pooling(pool)))
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
        let plain = plain(false).unwrap();
        let module = Module::new(&plain, "(module (memory (export \"memory\") 3) (table 7 funcref))").unwrap();
        let pooled = pooled(&module.resources_required(), false).unwrap();
        // SAFETY: the bytes come straight from `serialize`.
        let loaded = unsafe { Module::deserialize(&pooled, module.serialize().unwrap()) };
        assert!(loaded.is_ok(), "{loaded:?}");
        assert_eq!(fingerprint(&plain), fingerprint(&pooled));
    }
}
