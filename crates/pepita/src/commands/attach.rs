//! `pepita attach`: prints the output of a daemon from now on, passes signals on to it, leaves it on Ctrl-P Ctrl-Q, and exits
//! as the daemon does.

use super::foreground::{explain, until_end};
use super::logs::{self, Disturbance};
use crate::client::{self, Client};
use crate::error::{About, Result, call_error, eprint_line, system};
use crate::host::patience;
use crate::host::signals::EndSignals;
use crate::host::terminal::Keys;
use crate::reconcile;
use crate::rundir::RunDir;
use pepita_wire::monitor::REQUEST_PATIENCE;
use pepita_wire::record::CallErrorKind;
use pepita_wire::{MonitorRequest, Signal, VmId};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

/// The keys that leave the daemon: Ctrl-P Ctrl-Q (docker).
const LEAVE: [u8; 2] = [0x10, 0x11];

/// The way out of this program before the VM has ended, which restores the terminal.
#[derive(Debug, Clone)]
struct Leaving(Arc<Mutex<Option<Keys>>>);

impl Leaving {
    fn exit(&self, code: u32) -> ! {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        std::process::exit(i32::try_from(code).unwrap_or(125));
    }
}

/// Carries out `pepita attach`.
pub(super) fn attach(run_dir: &RunDir, name: &VmId, passes_signals: bool) -> Result<ExitCode> {
    // Before anything else, so that no signal is missed. There is one thread.
    let signals = EndSignals::take().map_err(|e| system("signals", e))?;
    let status = reconcile::status(run_dir, name)?;
    if status.state.is_terminal() {
        let why = format!("VM {name} has ended ({})", status.state);
        return Err(call_error(CallErrorKind::NoSuchVm, why)).about(name.as_str());
    }
    let _awake = keep_awake(run_dir, name);
    let keys = Keys::begin(std::io::stdin());
    let has_keys = keys.is_some();
    let leaving = Leaving(Arc::new(Mutex::new(keys)));
    if has_keys {
        let leaving = leaving.clone();
        let watching = patience::spawn(move || {
            if Keys::wait_for(std::io::stdin(), &LEAVE) {
                leaving.exit(0);
            }
        });
        watching.map_err(|e| system("a thread", e))?;
    }
    let record = until_end(run_dir, name, || {
        logs::stream_new(run_dir, name, &signals, |disturbance| match disturbance {
            Disturbance::ReaderGone => leaving.exit(0),
            Disturbance::Signal(number) => match of_number(number) {
                Some(Signal::HUP) | None => leaving.exit(0),
                Some(signal) if passes_signals => pass_on(run_dir, name, signal),
                Some(_) => leaving.exit(128 + number),
            },
        })
    });
    // Before anything is printed about the end, and in every case.
    drop(leaving.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    Ok(ExitCode::from(explain(&record?)))
}

/// Keeps a VM awake as long as the connection that is returned is open. A monitor of an earlier version refuses that, and one that
/// takes the VM over does not know of it.
fn keep_awake(run_dir: &RunDir, name: &VmId) -> Option<Client> {
    let mut client = Client::open(&run_dir.vm(name)).ok()?;
    client.ask(MonitorRequest::KeepAwake, Some(REQUEST_PATIENCE)).ok()?.ok()?;
    Some(client)
}

fn of_number(number: u32) -> Option<Signal> {
    Signal::try_from(i32::try_from(number).ok()?).ok()
}

/// Passes a signal on to the daemon. A monitor that does not answer must not hold up the output, nor the next signal.
fn pass_on(run_dir: &RunDir, name: &VmId, signal: Signal) {
    let (dir, vm) = (run_dir.vm(name), name.clone());
    let told = patience::spawn(move || {
        let refused = match client::ask(&dir, MonitorRequest::Signal(signal)) {
            Ok(answer) => client::accepted(answer).err().map(|e| e.message),
            Err(e) => Some(e.to_string()),
        };
        if let Some(why) = refused {
            eprint_line(format_args!("pepita: {vm}: {signal} was not passed on: {why}"));
        }
    });
    // Without a thread nothing is passed on, and the next signal is tried again.
    drop(told);
}
