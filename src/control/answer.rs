//! Carries out the calls of clients, and translates the outcomes to the protocol.

use super::call::{Call, ShutdownMode};
use super::hooks::Hooks;
use crate::executor::find;
use crate::group::{AskError, Refused};
use crate::spec::{Plan, TreeSpec, VmName};
use crate::tree::{ChangeError, Tree, TreeEnd};
use pepita_wire::{ErrorKind, Outcome, WireError};
use serde_json::{Value, json};
use std::time::Duration;

/// The time limit for the configuration to be read: its disk may hang.
const READ_LIMIT: Duration = Duration::from_secs(20);

pub(super) async fn carry_out(tree: &Tree, hooks: &Hooks, call: Call) -> Outcome {
    if let (Some(on_command), false) = (&hooks.on_command, call.is_question()) {
        on_command(&call);
    }
    match call {
        Call::Version => Ok(version(tree).await),
        // The session answers these calls without this function.
        Call::Status | Call::StatusOf(_) | Call::Events { .. } => Ok(Value::Null),
        Call::Command { vm, command } => {
            let vm = name(tree, vm);
            tree.command(&vm, command).await.map_err(|refused| refusal(&refused))?;
            // The command is carried out; a supervisor that starts now would not know of it.
            Ok(tree.unsaved_vm(&vm).map_or(Value::Null, |why| json!({ "unsaved": why })))
        }
        Call::Signal { vm, signal } => done(tree.signal(&name(tree, vm), signal).await),
        Call::Pause { vm } => done(tree.pause(&name(tree, vm)).await),
        Call::Resume { vm } => done(tree.resume(&name(tree, vm)).await),
        Call::Ask { vm, ask } => tree.ask(&name(tree, vm), ask).await.map_err(|e| match e {
            AskError::Refused(refused) => refusal(&refused),
            AskError::Guest(error) => error,
        }),
        Call::Plan => {
            let plan = tree.plan(load(hooks).await?).await.map_err(|e| change(&e))?;
            let needs = "it is only applied with --allow-removal";
            let warning = plan.grave_removals().map(|removals| format!("{removals}: {needs}"));
            Ok(planned(&plan, "with --restart these VMs are restarted", warning))
        }
        Call::Reload { restart } => {
            let plan = tree.reload_with_care(load(hooks).await?, restart).await.map_err(|e| change(&e))?;
            Ok(planned(&plan, reloaded(restart), None))
        }
        Call::ReloadAndRemove { restart } => {
            let plan = tree.reload(load(hooks).await?, restart).await.map_err(|e| change(&e))?;
            Ok(planned(&plan, reloaded(restart), None))
        }
        Call::Shutdown { how } => {
            let end = match how {
                ShutdownMode::Stop => tree.stop().await,
                ShutdownMode::Leave => tree.leave().await,
                ShutdownMode::Destroy => tree.destroy().await,
            };
            let word = match &end {
                TreeEnd::Stopped => "stopped",
                TreeEnd::Left => "left",
                TreeEnd::Failed { .. } => "failed",
            };
            Ok(json!({ "end": word, "text": end.to_string() }))
        }
    }
}

/// Returns the identity of this supervisor, and the place of its VMs.
async fn version(tree: &Tree) -> Value {
    let spec = tree.shared_spec().await;
    let run_dir = spec.as_ref().and_then(|spec| spec.run_dir.as_deref()).map(|dir| dir.to_string_lossy());
    let disk_dir = spec.as_ref().and_then(|spec| spec.disk_dir());
    let named = spec.as_ref().map(|spec| spec.pepita.clone());
    // A folder of PATH may lie on a disk that hangs.
    let found = tokio::task::spawn_blocking(move || named.and_then(|named| find(&named).ok())).await;
    let pepita = found.ok().flatten();
    json!({
        "name": tree.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "generation": pepita_wire::PROTOCOL_VERSION,
        "pid": std::process::id(),
        "run_dir": run_dir,
        "disk_dir": disk_dir.map(|dir| dir.to_string_lossy().into_owned()),
        "pepita": pepita.map(|path| path.to_string_lossy().into_owned()),
    })
}

/// Returns the name of a VM that a client has called by its name or by its id.
fn name(tree: &Tree, called: String) -> String {
    let Some(named) = VmName::from_id(&called) else { return called };
    // A VM of the configuration may have a name that looks like an id.
    let is_name =
        tree.next_group(None, |group| group.vms.iter().any(|vm| vm.name.as_str() == called).then_some(()));
    if is_name.is_some() { called } else { named.to_string() }
}

/// Returns the words for the VMs that run with an older configuration, after a reload.
fn reloaded(restart: bool) -> &'static str {
    match restart {
        true => "these VMs are restarted",
        false => "these VMs run on as they were until their next start (or `reload --restart`)",
    }
}

/// Returns a plan as data and as lines for people. The last lines are what becomes of the VMs that run with an older
/// configuration, and a warning.
fn planned(plan: &Plan, what_becomes: &str, warning: Option<String>) -> Value {
    let outdated = plan.outdated().map(|vms| format!("{what_becomes}: {vms}"));
    // A client of before prints no text of an empty plan. A VM that is restarted has to be named.
    let empty = plan.is_empty() && outdated.is_none();
    let lines: Vec<String> = [plan.to_string()].into_iter().chain(outdated).chain(warning).collect();
    json!({ "plan": plan.to_json(), "text": lines.join("\n"), "empty": empty })
}

/// Reads the configuration on a thread where blocking is allowed.
async fn load(hooks: &Hooks) -> Result<TreeSpec, WireError> {
    let Some(load) = hooks.load.clone() else {
        let text = "this supervisor has no configuration file to read again";
        return Err(WireError::new(ErrorKind::Unsupported, text));
    };
    let read = tokio::task::spawn_blocking(move || load());
    let Ok(read) = tokio::time::timeout(READ_LIMIT, read).await else {
        let limit = humantime::format_duration(READ_LIMIT);
        let text = format!("the configuration could not be read within {limit}: is its disk there?");
        return Err(WireError::new(ErrorKind::Busy, text));
    };
    let read = read.unwrap_or_else(|e| Err(format!("reading the configuration failed: {e}")));
    read.map_err(|mistakes| WireError::new(ErrorKind::BadRequest, mistakes))
}

fn done(result: Result<(), Refused>) -> Outcome {
    result.map(|()| Value::Null).map_err(|refused| refusal(&refused))
}

fn refusal(refused: &Refused) -> WireError {
    let kind = match refused {
        Refused::NoSuchVm(_) | Refused::NoSuchGroup(_) => ErrorKind::NotFound,
        Refused::NotRunning { .. } | Refused::Stopping | Refused::Taken(_) => ErrorKind::Conflict,
        Refused::Failed(_) => ErrorKind::Other,
    };
    WireError::new(kind, refused.to_string())
}

fn change(error: &ChangeError) -> WireError {
    match error {
        ChangeError::Refused(refused) => refusal(refused),
        ChangeError::Spec(_)
        | ChangeError::Fixed(_)
        | ChangeError::Moved { .. }
        | ChangeError::Removal(_) => WireError::new(ErrorKind::Conflict, error.to_string()),
    }
}
