//! Gives VMs commands, and waits until each has done what was asked.

use super::failure::Failure;
use super::lanes::Lanes;
use super::session::{ONE_LOOK, Session, find, part_of};
use super::view::{find as find_vm, text};
use crate::exit::ProgramExit;
use crate::format::format_duration;
use pepita_supervisor::Command;
use pepita_supervisor::control::{Call, Client, ClientError};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};

/// How a command waits.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wait {
    /// Not at all: the command is accepted, or refused.
    No,
    /// Until everything is done, or cannot be done, and at most this long.
    Until(Option<Duration>),
}

/// Gives the VMs that the targets mean a command.
///
/// # Errors
/// When a target is unknown, the supervisor refuses, or what was asked does not come to pass.
pub(super) async fn give(
    mut client: Client,
    targets: &[String],
    command: Command,
    wait: Wait,
) -> Result<(), Failure> {
    let (status, found) = find(&mut client, targets).await?;
    let mut lanes = Lanes::new(command, &status, found);
    let limit = match wait {
        Wait::No => {
            let mut unsaved = Unsaved::default();
            for vm in lanes.all() {
                let answer = client.call(Call::Command { vm: vm.clone(), command }).await?;
                unsaved.note(&vm, &answer);
            }
            return unsaved.told();
        }
        Wait::Until(limit) => limit,
    };
    let mut session = Session::watch(client, part_of(targets)).await?;
    let (mut waiting_for, mut unsaved) = (lanes.waiting_for(&status), Unsaved::default());
    // A moment that does not exist is never reached.
    let until = limit.and_then(|limit| Instant::now().checked_add(limit));
    let all = carry_out(&mut session, &mut lanes, command, until, &mut waiting_for, &mut unsaved);
    let in_time = match until {
        None => all.await?,
        Some(until) => match timeout_at(until.max(Instant::now() + ONE_LOOK), all).await {
            Ok(in_time) => in_time?,
            Err(_) => false,
        },
    };
    // VMs that were not told are named: they stay as they are, and the operator may have to ask again.
    let too_late = (!in_time).then(|| {
        let limit = format_duration(limit.unwrap_or_default());
        format!("not done after {limit}: {waiting_for}")
    });
    match (lanes.problems(), too_late) {
        ([], None) => unsaved.told(),
        ([], Some(too_late)) => Err(Failure::new(ProgramExit::NotReady, too_late)),
        (problems, too_late) => {
            let lines: Vec<&str> = problems.iter().chain(&too_late).map(String::as_str).collect();
            Err(Failure::new(ProgramExit::Failed, lines.join("\n")))
        }
    }
}

/// The VMs for which the supervisor could not save what it was asked for, each with the reason.
#[derive(Debug, Default)]
struct Unsaved(Vec<String>);

impl Unsaved {
    fn note(&mut self, vm: &str, answer: &Value) {
        if let Some(why) = answer["unsaved"].as_str() {
            self.0.push(format!(
                "{vm}: done, but not saved, so that a restart of the supervisor forgets it: {why}"
            ));
        }
    }

    fn told(self) -> Result<(), Failure> {
        if self.0.is_empty() { Ok(()) } else { Err(Failure::new(ProgramExit::NotSaved, self.0.join("\n"))) }
    }
}

/// Returns whether nothing was left to wait for in time.
async fn carry_out(
    session: &mut Session,
    lanes: &mut Lanes,
    command: Command,
    until: Option<Instant>,
    waiting_for: &mut String,
    unsaved: &mut Unsaved,
) -> Result<bool, Failure> {
    loop {
        let status = session.status().await?;
        let now = lanes.step(&status);
        *waiting_for = lanes.waiting_for(&status);
        if lanes.is_done() {
            return Ok(true);
        }
        let told = !now.is_empty();
        for vm in now {
            match session.client.call(Call::Command { vm: vm.clone(), command }).await {
                Ok(answer) => unsaved.note(&vm, &answer),
                Err(ClientError::Refused(why)) => lanes.refused(&vm, format!("{vm}: {}", why.message)),
                Err(other) => return Err(other.into()),
            }
        }
        if told {
            continue;
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            return Ok(false);
        }
        if !session.changed().await? {
            let message = format!("the supervisor has ended: {waiting_for}");
            return Err(Failure::new(ProgramExit::Failed, message));
        }
    }
}

/// The phases of a VM whose daemon runs.
const RUNS: [&str; 4] = ["running", "ready", "unhealthy", "paused"];

/// The time that a supervisor has to show what a monitor has done.
const SHOWN: Duration = Duration::from_secs(10);

/// Makes a call for each VM that the targets mean. In a group the VMs without a running daemon are left out. Returns the VMs.
///
/// # Errors
/// When a target is unknown, the supervisor refuses, or no VM of a group runs.
pub(super) async fn call_each(
    client: &mut Client,
    targets: &[String],
    make: impl Fn(String) -> Call,
) -> Result<Vec<String>, Failure> {
    let (status, found) = find(client, targets).await?;
    let is_any = found.vms.is_empty();
    let runs = |vm: &String| RUNS.contains(&phase(&status, vm));
    let vms: Vec<String> = found.vms.into_iter().filter(|vm| found.by_name || runs(vm)).collect();
    if vms.is_empty() && !is_any {
        return Err(Failure::new(ProgramExit::Refused, format!("no VM of {} runs", targets.join(", "))));
    }
    for vm in &vms {
        client.call(make(vm.clone())).await?;
    }
    Ok(vms)
}

/// Pauses or resumes the VMs that the targets mean, and waits until the supervisor shows it: whoever asks next finds it done.
///
/// # Errors
/// The errors of [`call_each`].
pub(super) async fn set_paused(mut client: Client, targets: &[String], paused: bool) -> Result<(), Failure> {
    let call = |vm| if paused { Call::Pause { vm } } else { Call::Resume { vm } };
    let vms = call_each(&mut client, targets, call).await?;
    let mut session = Session::watch(client, part_of(targets)).await?;
    let seen = async {
        loop {
            let status = session.status().await?;
            let is_shown = |vm: &String| {
                let phase = phase(&status, vm);
                !RUNS.contains(&phase) || (phase == "paused") == paused
            };
            if vms.iter().all(is_shown) || !session.changed().await? {
                return Ok(());
            }
        }
    };
    // The monitors have done it.
    timeout(SHOWN, seen).await.unwrap_or(Ok(()))
}

fn phase<'s>(status: &'s Value, vm: &str) -> &'s str {
    find_vm(status, vm).map_or("-", |(_, vm)| text(&vm["phase"]))
}
