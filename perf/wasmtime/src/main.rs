//! Serves each request in a new WebAssembly instance and says how long that took; asked by
//! [`perf::peer::Wasmtime`], whose module describes the conversation.
//!
//! Used as a careful embedder would: the module is compiled and linked once, memories and tables
//! come from a pool that is mapped once, a fresh memory is copy-on-write of the module's image.
//! What a service would add and this leaves out, in its favour: a limit on running time, WASI.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use perf::peer::serve_wasmtime;
use wasmtime::error::Context;
use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, InstancePre, Linker, Memory, Module,
    PoolingAllocationConfig, Result, Store, TypedFunc, format_err,
};

const ECHO: &str = include_str!("echo.wat");
/// Where the module takes requests; they have 32 KiB, as [`perf::peer`] says.
const REQUEST_AT: u32 = 0;
/// Bytes of a module's memory: one page of WebAssembly.
const MEMORY_BYTES: usize = 64 * 1024;
/// One instance at a time, and one that is being given back.
const INSTANCES: u32 = 2;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wasmtime-peer: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<()> {
    let echo = Echo::new(ECHO)?;
    serve_wasmtime(io::stdin().lock(), io::stdout().lock(), |request, answer| {
        echo.once(request, answer).map_err(|error| io::Error::other(format!("{error:#}")))
    })?;
    Ok(())
}

/// The module, compiled and linked.
struct Echo {
    engine: Engine,
    module: InstancePre<()>,
}

impl Echo {
    fn new(text: &str) -> Result<Self> {
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(INSTANCES).total_memories(INSTANCES).total_tables(INSTANCES);
        pool.max_memory_size(MEMORY_BYTES);
        // Clearing a used page is cheaper than mapping it anew, and where the system can say
        // which pages were used only those are cleared.
        pool.linear_memory_keep_resident(MEMORY_BYTES).pagemap_scan(Enabled::Auto);
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
        let engine = Engine::new(&config)?;
        let module = Module::new(&engine, text).context("the module does not compile")?;
        let module = Linker::new(&engine).instantiate_pre(&module)?;
        Ok(Self { engine, module })
    }

    /// Makes an instance, lets it answer, and lets it go.
    #[expect(clippy::disallowed_methods, reason = "measuring is what this program is for")]
    fn once(&self, request: &[u8], answer: &mut Vec<u8>) -> Result<Duration> {
        let start = Instant::now();
        let mut store = Store::new(&self.engine, ());
        let instance = self.module.instantiate(&mut store)?;
        let memory: Memory = instance
            .get_memory(&mut store, "memory")
            .ok_or_else(|| format_err!("the module exports no memory"))?;
        let echo: TypedFunc<(u32, u32), u32> = instance.get_typed_func(&mut store, "echo")?;
        memory.write(&mut store, REQUEST_AT as usize, request)?;
        let at = echo.call(&mut store, (REQUEST_AT, u32::try_from(request.len())?))? as usize;
        let answered = memory.data(&store).get(at..at + request.len());
        answer.extend_from_slice(answered.ok_or_else(|| format_err!("an answer out of memory"))?);
        drop(store);
        Ok(start.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_is_answered_by_an_instance_of_its_own() {
        // Its first word counts the calls of an instance: always one.
        let counting = r#"(module
            (memory (export "memory") 1 1)
            (func (export "echo") (param i32 i32) (result i32)
              (i32.store (i32.const 1024) (i32.add (i32.load (i32.const 1024)) (i32.const 1)))
              (i32.const 1024)))"#;
        let echo = Echo::new(counting).unwrap();
        for _ in 0..100 {
            let mut answer = Vec::new();
            assert!(echo.once(&[0; 4], &mut answer).unwrap() > Duration::ZERO);
            assert_eq!(answer, [1, 0, 0, 0]);
        }
    }

    #[test]
    fn a_module_that_traps_is_an_error() {
        let trapping = r#"(module
            (memory (export "memory") 1 1)
            (func (export "echo") (param i32 i32) (result i32) unreachable))"#;
        let failed = Echo::new(trapping).unwrap().once(b"a", &mut Vec::new()).unwrap_err();
        assert!(format!("{failed:#}").contains("unreachable"), "{failed:#}");
    }
}
