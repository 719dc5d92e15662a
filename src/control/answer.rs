//! Carries out the calls of clients, and translates the outcomes to the protocol.

use super::call::{Call, ShutdownMode};
use super::hooks::Hooks;
use crate::executor::find;
use crate::group::{AskError, Refused};
use crate::spec::{GroupSpec, TreeSpec};
use crate::tree::{ChangeError, Tree, TreeEnd};
use pepita_wire::{ErrorKind, Outcome, WireError};
use serde_json::{Value, json};

pub(super) async fn carry_out(tree: &Tree, hooks: &Hooks, call: Call) -> Outcome {
    if let (Some(on_command), false) = (&hooks.on_command, call.is_question()) {
        on_command(&call);
    }
    match call {
        Call::Version => Ok(version(tree).await),
        Call::Status => Ok(status(tree).await),
        // The session has answered this call already.
        Call::Events { .. } => Ok(Value::Null),
        Call::Command { vm, command } => done(tree.command(&vm, command).await),
        Call::Signal { vm, signal } => done(tree.signal(&vm, signal).await),
        Call::Pause { vm } => done(tree.pause(&vm).await),
        Call::Resume { vm } => done(tree.resume(&vm).await),
        Call::Ask { vm, ask } => tree.ask(&vm, ask).await.map_err(|e| match e {
            AskError::Refused(refused) => refusal(&refused),
            AskError::Guest(error) => error,
        }),
        Call::Plan => {
            let plan = tree.plan(load(hooks).await?).await.map_err(|e| change(&e))?;
            Ok(json!({ "plan": plan.to_json(), "text": plan.to_string(), "empty": plan.is_empty() }))
        }
        Call::Reload { restart } => {
            let plan = tree.reload(load(hooks).await?, restart).await.map_err(|e| change(&e))?;
            Ok(json!({ "plan": plan.to_json(), "text": plan.to_string(), "empty": plan.is_empty() }))
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
    let spec = tree.spec().await;
    let run_dir = spec.as_ref().and_then(|spec| spec.run_dir.as_deref()).map(|dir| dir.to_string_lossy());
    let pepita = spec.as_ref().and_then(|spec| find(&spec.pepita).ok());
    json!({
        "name": tree.name(),
        "version": env!("CARGO_PKG_VERSION"),
        "generation": pepita_wire::PROTOCOL_VERSION,
        "pid": std::process::id(),
        "run_dir": run_dir,
        "pepita": pepita.map(|path| path.to_string_lossy().into_owned()),
    })
}

/// Returns the status, and for each group the settings that explain it.
async fn status(tree: &Tree) -> Value {
    // The number is taken before the snapshot: a client that asks for later events then gets an event twice rather than
    // never.
    let seq = tree.newest_event();
    let mut json = tree.status().to_json();
    json["seq"] = json!(seq);
    json["name"] = json!(tree.name());
    json["pid"] = json!(std::process::id());
    let spec = tree.spec().await;
    let groups = json["groups"].as_array_mut().into_iter().flatten();
    for group in groups {
        let known = |spec: &&GroupSpec| group["name"] == spec.name.as_str();
        let found = spec.as_ref().and_then(|spec| spec.groups.iter().find(known));
        if let Some(found) = found {
            let after: Vec<&str> = found.after.iter().map(|name| name.as_str()).collect();
            (group["strategy"], group["after"]) = (json!(found.strategy.to_string()), json!(after));
        }
    }
    json
}

/// Reads the configuration on a thread where blocking is allowed.
async fn load(hooks: &Hooks) -> Result<TreeSpec, WireError> {
    let Some(load) = hooks.load.clone() else {
        let text = "this supervisor has no configuration file to read again";
        return Err(WireError::new(ErrorKind::Unsupported, text));
    };
    let read = tokio::task::spawn_blocking(move || load()).await;
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
        ChangeError::Spec(_) | ChangeError::Fixed(_) | ChangeError::Moved { .. } => {
            WireError::new(ErrorKind::Conflict, error.to_string())
        }
    }
}
