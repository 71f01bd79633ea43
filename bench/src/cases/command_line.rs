//! The command lines of the contestants.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Result;
use clap::ValueEnum;

use super::cpus;
use crate::{
    contest::{self, Contestant, MakeCommand, own_folder},
    inputs::{Inputs, name},
    kingdom::Kingdom,
    options::{Kind, Run, Task},
    place::{Place, program, root},
    say,
};

/// The subject of a contest.
pub(super) struct Contest<'a> {
    pub(super) options: &'a Run,
    pub(super) place: &'a Place,
    pub(super) guest: PathBuf,
    pub(super) inputs: Inputs,
}

impl<'a> Contest<'a> {
    /// The system, with this kingdom or in local mode.
    pub(super) fn queen(&self, kingdom: Option<&'a Kingdom>) -> Contestant<'a> {
        let (guest, input) = (self.guest.clone(), self.inputs.folder.clone());
        let (cache, cpus) = (self.place.path().join("queen-cache"), cpus(self.options).to_string());
        let name = if kingdom.is_some() { "king, duke, queen, peasants" } else { "queen without a king" };
        let command = move |output: &Path| {
            let mut command = program("queen")?;
            command.arg("--quiet").arg("--binary").arg(&guest).arg("--input").arg(&input).arg("--output").arg(output);
            match kingdom {
                Some(kingdom) => command.args(&kingdom.flags),
                None => command.args(["--num-cpus", &cpus]).arg("--cache").arg(&cache),
            };
            Ok(command)
        };
        self.contestant(name, "queen", Box::new(command), kingdom)
    }

    /// The system with this kingdom, whose duke opens the files itself.
    pub(super) fn shared(&self, kingdom: &'a Kingdom) -> Contestant<'a> {
        let carried = self.queen(Some(kingdom));
        let command = move |output: &Path| {
            let mut command = (carried.command)(output)?;
            command.arg("--shared");
            Ok(command)
        };
        self.contestant("king, duke, `queen --shared`, peasants", "queen", Box::new(command), Some(kingdom))
    }

    /// The loop with a guest.
    pub(super) fn guest_loop(&self, kind: Kind) -> Result<Contestant<'a>> {
        let compiled = self.place.compile(&self.guest)?;
        let name = match kind {
            Kind::Kept => "loop (a): one process, kept instances",
            Kind::Fresh => "loop (a): one process, fresh instances",
            Kind::Native => "loop (b): one process, no WASM",
            Kind::Tight => contest::TIGHT,
        };
        let (input, cpus) = (self.inputs.folder.clone(), cpus(self.options));
        let command = move |output: &Path| {
            let mut command = loop_command(kind, cpus, &input, output)?;
            command.arg("--compiled").arg(&compiled);
            Ok(command)
        };
        Ok(self.contestant(name, "loop", Box::new(command), None))
    }

    /// The loop without a guest.
    pub(super) fn native_loop(&self, task: Task) -> Contestant<'a> {
        let (input, cpus) = (self.inputs.folder.clone(), cpus(self.options));
        let command = move |output: &Path| {
            let mut command = loop_command(Kind::Native, cpus, &input, output)?;
            command.arg("--task").args(task.to_possible_value().map(|value| value.get_name().to_owned()));
            Ok(command)
        };
        self.contestant("loop (b): one process, no WASM", "loop", Box::new(command), None)
    }

    /// A process for each input, started by `xargs` and by GNU parallel where they are installed.
    pub(super) fn process_each(&self, units: u64, rounds: usize) -> Result<Vec<Contestant<'a>>> {
        let inputs = self.inputs.first(units, own_folder(self.place, "each"))?;
        let mut contestants = Vec::new();
        for tool in ["xargs", "parallel"] {
            if !is_installed(tool) {
                say::note(&format!("  {tool} is not installed and left out"));
                continue;
            }
            let compiled = self.place.compile(&self.guest)?;
            let (inputs, cpus) = (inputs.clone(), cpus(self.options));
            let (input, jobs) = (inputs.folder.clone(), if tool == "xargs" { "-P" } else { "-j" });
            let command = move |output: &Path| {
                let line = format!(
                    "ls '{input}' | {tool} {jobs} {cpus} -I{{}} '{bench}' one --compiled '{compiled}' '{input}/{{}}' '{output}/{{}}'",
                    input = input.display(),
                    bench = env::current_exe()?.display(),
                    compiled = compiled.display(),
                    output = output.display(),
                );
                let mut command = Command::new("sh");
                command.args(["-c", &line]).stdin(Stdio::null());
                Ok(command)
            };
            let name = format!("(c) `{tool} {jobs}{cpus}`, a process each");
            let contestant = self.contestant(&name, "sh", Box::new(command), None);
            contestants.push(Contestant { inputs, rounds_max: rounds, ..contestant });
        }
        Ok(contestants)
    }

    /// A pool of Python processes, if Python's `wasmtime` can be installed.
    pub(super) fn python_pool(&self, rounds: usize) -> Result<Option<Contestant<'a>>> {
        let Some(python) = python() else {
            say::note("  Python with the package `wasmtime` cannot be installed and is left out");
            return Ok(None);
        };
        let script = root().join("bench/pool.py");
        let compiled = self.place.path().join("python.compiled");
        let prepared = Command::new(&python).arg(&script).arg("prepare").arg(&self.guest).arg(&compiled).status()?;
        if !prepared.success() {
            say::note("  Python cannot compile the guest and is left out");
            return Ok(None);
        }
        let (input, cpus) = (self.inputs.folder.clone(), cpus(self.options).to_string());
        let name = format!("(d) Python `multiprocessing` pool of {cpus}");
        let command = move |output: &Path| {
            let mut command = Command::new(&python);
            command.arg(&script).arg("run").arg(&compiled).args([&cpus]).arg(&input).arg(output).stdin(Stdio::null());
            Ok(command)
        };
        let contestant = self.contestant(&name, "python", Box::new(command), None);
        Ok(Some(Contestant { rounds_max: rounds, ..contestant }))
    }

    /// A copy of the only input by `cp`.
    pub(super) fn cp(&self) -> Contestant<'a> {
        let input = self.inputs.folder.clone();
        let command = move |output: &Path| {
            let mut command = Command::new("cp");
            // Without this it would leave holes where the input has some.
            command.args(["--sparse=never", "--reflink=never"]).arg(input.join(name(0))).arg(output);
            Ok(command)
        };
        self.contestant("`cp`", "cp", Box::new(command), None)
    }

    fn contestant(
        &self,
        name: &str,
        process: &'static str,
        command: MakeCommand<'a>,
        kingdom: Option<&'a Kingdom>,
    ) -> Contestant<'a> {
        let (name, inputs) = (name.to_owned(), self.inputs.clone());
        Contestant { name, process, inputs, rounds_max: usize::MAX, command, kingdom, status: 0 }
    }
}

fn loop_command(kind: Kind, cpus: usize, input: &Path, output: &Path) -> Result<Command> {
    let mut command = Command::new(env::current_exe()?);
    command.arg("loop").arg("--kind").args(kind.to_possible_value().map(|value| value.get_name().to_owned()));
    command.args(["--threads", &cpus.to_string()]).arg("--input").arg(input).arg("--output").arg(output);
    command.stdin(Stdio::null());
    Ok(command)
}

fn is_installed(tool: &str) -> bool {
    let mut command = Command::new(tool);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A Python with the package `wasmtime`, in a virtual environment that is made once.
fn python() -> Option<PathBuf> {
    let folder = root().join("target/bench-python");
    let python = folder.join("bin/python");
    let has_wasmtime = || {
        let mut command = Command::new(&python);
        command.args(["-c", "import wasmtime"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    let done = |command: &mut Command| command.stdin(Stdio::null()).status().is_ok_and(|status| status.success());
    let is_there = has_wasmtime()
        || (done(Command::new("python3").args(["-m", "venv"]).arg(&folder))
            && done(Command::new(&python).args(["-m", "pip", "install", "--quiet", "wasmtime"]))
            && has_wasmtime());
    is_there.then_some(python)
}
