//! The helper: `pepita jail PLAN FD -- PROGRAM ARG…` builds the jail of PLAN around itself and executes PROGRAM. What
//! the module `answer` has is written to the descriptor FD. Without a program, the helper ends when it is in its jail.

use crate::answer::{Failure, Said, What};
use crate::enter;
use crate::plan::{Level, Plan};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// Runs the helper with the arguments behind [`crate::HELPER`]. Returns only when the program was not executed.
pub fn main(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let (plan, fd) = (args.next().unwrap_or_default(), args.next().unwrap_or_default());
    // A descriptor of this process's own, which ends with the execution of the program.
    let voice = File::options().write(true).open(Path::new("/proc/self/fd").join(&fd));
    let mut voice = match voice {
        Ok(voice) => voice,
        Err(e) => {
            return refuse(None, &Failure::new(What::Helper, format!("descriptor {}: {e}", fd.display())));
        }
    };
    let is_program_next = args.next().is_none_or(|word| word == "--");
    let program: Vec<OsString> = args.collect();
    let plan = parse(&plan).and_then(|plan| match is_program_next {
        true => Ok(plan),
        false => Err(Failure::new(What::Plan, "usage: pepita jail PLAN FD -- PROGRAM ARG…")),
    });
    match plan.and_then(|plan| execute(&plan, &program, &mut voice)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => refuse(Some(&mut voice), &failure),
    }
}

pub(crate) fn parse(plan: &OsStr) -> Result<Plan, Failure> {
    let wrong = |why: String| Failure::new(What::Plan, why);
    let text = plan.to_str().ok_or_else(|| wrong("the plan is no text".into()))?;
    let plan: Plan = serde_json::from_str(text).map_err(|e| wrong(format!("the plan: {e}")))?;
    plan.check().map_err(wrong)?;
    Ok(plan)
}

fn execute(plan: &Plan, program: &[OsString], voice: &mut File) -> Result<(), Failure> {
    if plan.level != Level::None {
        enter::close_others(plan, voice.as_raw_fd())?;
        let report = enter::enter(plan, &mut |said| say(voice, said))?;
        say(voice, &Said::Entered(report));
    }
    let [program, args @ ..] = program else { return Ok(()) };
    let e = Command::new(program).args(args).exec();
    let shown = Path::new(program).display();
    let hint = match e.kind() {
        ErrorKind::NotFound if plan.level != Level::None => {
            " (in its jail: the program, its loader or its interpreter is not in the root)"
        }
        _ => "",
    };
    Err(Failure::of_program(format!("{shown}: {e}{hint}"), e.raw_os_error()))
}

fn say(voice: &mut File, said: &Said) {
    let mut line = serde_json::to_vec(said).unwrap_or_default();
    line.push(b'\n');
    // Who has given up listening has given up this process, too.
    let _ = voice.write_all(&line);
}

fn refuse(voice: Option<&mut File>, failure: &Failure) -> ExitCode {
    if let Some(voice) = voice {
        say(voice, &Said::Failed(failure.clone()));
    }
    // The last words of the process, for whoever reads its log.
    let _ = writeln!(std::io::stderr(), "pepita {failure}");
    ExitCode::from(failure.exit_code())
}
