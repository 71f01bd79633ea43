//! The guest's world: the one function that builds the sandboxed store, and what it grants.
//!
//! A guest gets its input, a bounded place for its answer, a log, clocks, randomness, and bounded memory and tables.
//! Everything else is absent, not forbidden.

use std::sync::Arc;

use distwasm_proto::limits::GUEST_TABLE_ELEMENTS_MAX;
use wasmtime::{Engine, ResourceLimiter, Store};
use wasmtime_wasi::p1::WasiP1Ctx;

use crate::stdio::Stdio;
use crate::wasi;

/// What a guest is granted.
#[derive(Clone, Debug)]
pub struct Grants {
    /// The guest's arguments, after its name.
    pub args: Arc<[String]>,
    /// All linear memories together.
    pub memory_bytes_max: usize,
    /// All that it writes to stdout for one unit.
    pub output_bytes_max: usize,
}

/// The state of one guest, in its store.
pub struct Guest {
    /// Its standard streams.
    pub stdio: Stdio,
    /// Its memory and tables.
    pub bounds: Bounds,
    args: Arc<[String]>,
    /// Made at the first call that needs it. Most units of most programs need none.
    wasi: Option<WasiP1Ctx>,
}

/// Builds the store in which an instance lives. There is no other way to make one.
pub fn store(engine: &Engine, grants: &Grants) -> Store<Guest> {
    let guest = Guest {
        stdio: Stdio::new(grants.output_bytes_max),
        bounds: Bounds { memory_bytes_max: grants.memory_bytes_max, ..Bounds::default() },
        args: Arc::clone(&grants.args),
        wasi: None,
    };
    let mut store = Store::new(engine, guest);
    store.limiter(|guest| &mut guest.bounds);
    store
}

impl Guest {
    /// The part of WASI that is answered by `wasmtime-wasi`.
    pub fn wasi(&mut self) -> &mut WasiP1Ctx {
        self.wasi.get_or_insert_with(|| wasi::context(&self.args))
    }
}

impl Default for Guest {
    /// A guest without any grant.
    fn default() -> Guest {
        Guest { stdio: Stdio::new(0), bounds: Bounds::default(), args: Arc::default(), wasi: None }
    }
}

/// How much memory a guest has, and whether it was denied more.
#[derive(Debug, Default)]
pub struct Bounds {
    memory_bytes: usize,
    memory_bytes_max: usize,
    is_memory_denied: bool,
    table_elements: usize,
}

impl Bounds {
    /// Forgets what was denied in an earlier unit.
    pub fn begin(&mut self) {
        self.is_memory_denied = false;
    }

    /// The bound, if the guest has run into it since the unit began.
    pub fn denied(&self) -> Option<usize> {
        self.is_memory_denied.then_some(self.memory_bytes_max)
    }
}

impl ResourceLimiter for Bounds {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.memory_bytes.saturating_add(desired.saturating_sub(current));
        if total > self.memory_bytes_max {
            self.is_memory_denied = true;
            return Ok(false);
        }
        self.memory_bytes = total;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.table_elements.saturating_add(desired.saturating_sub(current));
        if total > GUEST_TABLE_ELEMENTS_MAX {
            return Ok(false);
        }
        self.table_elements = total;
        Ok(true)
    }
}
