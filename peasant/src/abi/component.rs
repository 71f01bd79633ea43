//! Components: a fresh instance for each unit. The three ways to call them differ in where the answer comes from.

mod wave;

use std::sync::Arc;

use bytes::Bytes;
use distwasm_proto::failure::{Failure, FailureKind};
use tokio::runtime::Runtime;
use wasmtime::Store;
use wasmtime::component::{ComponentExportIndex, Instance, InstancePre, Val};

use super::{Abi, Unit, no_guest};
use crate::guest::{self, Grants, Guest};
use crate::program::{ComponentEntry, ComponentProgram};
use crate::stdio::{FileOutput, Input, deliver};
use crate::verdict;

/// A program that is a component.
pub struct Component {
    entry: ComponentEntry,
    linked: InstancePre<Guest>,
    grants: Arc<Grants>,
    /// Sleeping guests sleep on it.
    runtime: Runtime,
    answer: Vec<u8>,
    /// The last unit's log, if results are left in files.
    log: Vec<u8>,
}

impl Component {
    /// Makes one instance, which warms the pool and shows that the program fits into its memory.
    pub fn start(program: ComponentProgram, grants: Arc<Grants>, runtime: Runtime) -> Result<Component, Failure> {
        let ComponentProgram { entry, linked } = program;
        let mut store = guest::store(linked.engine(), &grants, None).map_err(|error| no_guest(&error))?;
        let made = runtime.block_on(linked.instantiate_async(&mut store));
        if let Err(error) = made {
            verdict::of_error(&error, store.data())?;
        }
        Ok(Component { entry, linked, grants, runtime, answer: Vec::new(), log: Vec::new() })
    }
}

impl Abi for Component {
    fn answer(&mut self, unit: Unit) -> Result<&[u8], Failure> {
        let Unit { input, output, description } = unit;
        let mut store =
            guest::store(self.linked.engine(), &self.grants, description).map_err(|error| no_guest(&error))?;
        let is_command = matches!(self.entry, ComponentEntry::Command(_));
        let is_left_in_file = output.is_some();
        // A command has streams; other components take and return values.
        let (on_stdin, to_stdout, argument, output) = match is_command {
            true => (input, output.map(|file| FileOutput::new(file, 0)), Bytes::new(), None),
            false => (Input::default(), None, input.whole()?, output),
        };
        {
            let mut stdio = store.data().stdio.lock();
            stdio.begin(on_stdin, to_stdout, &mut self.answer);
            if !is_command {
                stdio.drop_output();
            }
        }
        let ended = self.runtime.block_on(async {
            let instance = self.linked.instantiate_async(&mut store).await?;
            match &self.entry {
                ComponentEntry::Command(indices) => {
                    let command = indices.load(&mut store, &instance)?;
                    let ran = command.wasi_cli_run().call_run(&mut store).await?;
                    let status = if ran.is_ok() { 0 } else { 1 };
                    let is_result = store.data().grants().ok_statuses.contain(status);
                    Ok(if is_result { Ok(None) } else { Err(verdict::of_exit(status, store.data())) })
                }
                ComponentEntry::Program(export) => answer_of_program(&mut store, &instance, export, &argument).await,
                ComponentEntry::Call(export) => answer_of_call(&mut store, &instance, export, &argument).await,
            }
        });
        let ended = ended.map_err(|error| verdict::of_error(&error, store.data()));
        if self.grants.args.name_output() {
            self.log = store.data().stdio.lock().stderr();
        }
        let written = store.data().stdio.lock().end(&mut self.answer);
        match ended {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(answer))) => self.answer = answer,
            Ok(Err(failure)) => return Err(failure),
            Err(judged) => {
                judged?;
                if !is_command {
                    let why = "exited before it returned".to_owned();
                    return Err(verdict::of_answer(why, store.data()));
                }
            }
        }
        written.map_err(|error| verdict::of_stdio(&error, store.data()))?;
        let output_bytes_max = self.grants.output_bytes_max;
        if self.answer.len() > output_bytes_max && !is_left_in_file {
            let why = format!("answer is longer than {output_bytes_max} bytes");
            return Err(verdict::of_answer(why, store.data()));
        }
        deliver(&self.answer, output)
    }

    fn log(&self) -> Vec<u8> {
        self.log.clone()
    }
}

/// How a unit ended, if the guest returned. The answer is `None` if it is the text that the guest wrote to stdout.
type Ended = Result<Option<Vec<u8>>, Failure>;

async fn answer_of_program(
    store: &mut Store<Guest>,
    instance: &Instance,
    export: &ComponentExportIndex,
    input: &[u8],
) -> wasmtime::Result<Ended> {
    let answer = instance.get_typed_func::<(&[u8],), (Result<Vec<u8>, String>,)>(&mut *store, export)?;
    let (answered,) = answer.call_async(&mut *store, (input,)).await?;
    Ok(answered.map(Some).map_err(|why| verdict::of_refusal(format!("answered with an error: {why}"), store.data())))
}

async fn answer_of_call(
    store: &mut Store<Guest>,
    instance: &Instance,
    export: &ComponentExportIndex,
    input: &[u8],
) -> wasmtime::Result<Ended> {
    let function = instance.get_func(&mut *store, export);
    let function = function.ok_or_else(|| wasmtime::format_err!("the function to call does not exist"))?;
    let signature = function.ty(&*store);
    let arguments = match wave::parse(input, &signature) {
        Ok(arguments) => arguments,
        Err(why) => return Ok(Err(Failure::new(FailureKind::Input, why))),
    };
    let mut results = vec![Val::Bool(false); signature.results().len()];
    function.call_async(&mut *store, &arguments, &mut results).await?;
    let text = wave::show(&results)?;
    if let [Val::Result(Err(_))] = results.as_slice() {
        return Ok(Err(verdict::of_refusal(format!("answered with {}", text.trim_end()), store.data())));
    }
    Ok(Ok(Some(text.into_bytes())))
}
