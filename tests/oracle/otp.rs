//! Asks OTP's own supervisor: one `erl` that runs `otp.erl`.

use crate::answer::Answer;
use crate::scenario::Scenario;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running `erl`. Dropping it ends the program.
pub(crate) struct Otp {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    /// Answers that came before they were asked for.
    early: HashMap<u64, Answer>,
}

impl Otp {
    /// Starts `erl`, as it lies in `.tools/otp`: nothing is installed.
    pub(crate) fn start() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let erlang = root.join(".tools/otp/usr/lib/erlang");
        let programs = programs(&erlang);
        let source = root.join("tests/oracle/otp.erl");
        let run = format!(
            "{{ok, Module, Code}} = compile:file({source:?}, [binary, report]), \
             {{module, Module}} = code:load_binary(Module, {source:?}, Code), Module:main()."
        );
        let mut command = Command::new(programs.join("erlexec"));
        // What the script `erl` sets; that of the package has the path of an installation in it.
        command.env("ROOTDIR", &erlang).env("BINDIR", &programs).env("EMU", "beam").env("PROGNAME", "erl");
        command.args(["-noshell", "-eval", &run]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("erlexec of .tools/otp runs");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self { child, input, output, early: HashMap::new() }
    }

    /// Sends a scenario, whose answer [`Otp::answer`] returns.
    pub(crate) fn send(&mut self, scenario: &Scenario) {
        let input = self.input.as_mut().expect("open until it is dropped");
        writeln!(input, "{}", scenario.term()).expect("erl reads");
    }

    /// Waits for the answer to a scenario that was sent.
    pub(crate) fn answer(&mut self, scenario: &Scenario) -> Answer {
        loop {
            if let Some(answer) = self.early.remove(&scenario.seed) {
                return answer;
            }
            let line = self.output.next().expect("erl has not ended").expect("erl prints UTF-8");
            let (seed, text) = line.split_once(' ').expect("a number and an answer");
            self.early.insert(seed.parse().expect("a number"), Answer::parse(text));
        }
    }

    /// Sends a scenario and waits for its answer.
    pub(crate) fn ask(&mut self, scenario: &Scenario) -> Answer {
        self.send(scenario);
        self.answer(scenario)
    }
}

impl Drop for Otp {
    fn drop(&mut self) {
        // At the end of its input it halts.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// Returns the folder of the programs of an unpacked Erlang.
fn programs(erlang: &Path) -> PathBuf {
    let found =
        std::fs::read_dir(erlang).into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let mut found = found.filter(|bin| bin.join("erlexec").exists());
    found.next().unwrap_or_else(|| panic!("{}: no Erlang: run scripts/setup-tests.sh", erlang.display()))
}
