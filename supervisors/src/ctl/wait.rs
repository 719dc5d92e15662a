//! Waits until a supervisor answers and VMs are ready, for scripts.

use super::failure::Failure;
use crate::exit::ProgramExit;
use crate::format::format_duration;
use pepita_supervisor::control::{Call, Client, ClientError};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// The interval of attempts to connect. The kernel does not report the moment at which a supervisor begins to listen.
const RETRY: Duration = Duration::from_millis(50);

/// Waits until the named VMs are ready; without names, until all VMs are ready that are to run. Without names, a VM
/// that has completed counts as ready.
///
/// # Errors
/// When the wait takes longer than `limit`, there is no such VM, or the supervisor ends meanwhile.
pub(super) async fn until_ready(socket: &Path, vms: &[String], limit: Duration) -> Result<(), Failure> {
    let mut waiting_for = "there is no supervisor yet".to_owned();
    match tokio::time::timeout(limit, watch(socket, vms, &mut waiting_for)).await {
        Ok(done) => done,
        Err(_) => {
            let message = format!("not ready after {}: {waiting_for}", format_duration(limit));
            Err(Failure::new(ProgramExit::NotReady, message))
        }
    }
}

async fn watch(socket: &Path, vms: &[String], waiting_for: &mut String) -> Result<(), Failure> {
    let mut client = loop {
        match Client::connect(socket).await {
            Err(ClientError::NoSupervisor { .. }) => tokio::time::sleep(RETRY).await,
            connected => break connected?,
        }
    };
    client.call(Call::Events { after: None }).await?;
    loop {
        let status = client.call(Call::Status).await?;
        let missing = missing(&status, vms)?;
        if missing.is_empty() {
            return Ok(());
        }
        *waiting_for = missing.join(", ");
        if client.receive().await?.is_none() {
            return Err(Failure::new(
                ProgramExit::Failed,
                format!("the supervisor has ended: {waiting_for}"),
            ));
        }
        // One new status is enough for any number of events.
        while client.waiting().is_some() {}
    }
}

/// Returns the VMs that are not ready, and the phase of each.
fn missing(status: &Value, vms: &[String]) -> Result<Vec<String>, Failure> {
    let groups = status["groups"].as_array().map_or(&[][..], Vec::as_slice);
    let all: Vec<&Value> = groups.iter().filter_map(|group| group["vms"].as_array()).flatten().collect();
    if let Some(unknown) = vms.iter().find(|name| !all.iter().any(|vm| vm["name"] == name.as_str())) {
        return Err(Failure::no_such_vm(unknown));
    }
    let awaited = |vm: &&&Value| match vms {
        [] => vm["wanted"] == true,
        vms => vms.iter().any(|name| vm["name"] == name.as_str()),
    };
    let ready = |vm: &Value| vm["phase"] == "ready" || (vms.is_empty() && vm["phase"] == "completed");
    let missing = all.iter().filter(awaited).filter(|vm| !ready(vm));
    let describe = |vm: &&Value| {
        let word = |key: &str| vm[key].as_str().unwrap_or_default().to_owned();
        format!("{} is {}", word("name"), word("phase"))
    };
    Ok(missing.map(describe).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn vms_that_are_not_ready_are_named() {
        let vm = |name, phase, wanted| json!({ "name": name, "phase": phase, "wanted": wanted });
        let status = json!({ "groups": [
            { "vms": [vm("a", "ready", true), vm("b", "backoff", true)] },
            { "vms": [vm("c", "stopped", false), vm("d", "completed", true)] },
        ] });
        let missing_of = |vms: &[&str]| {
            let vms: Vec<String> = vms.iter().map(|vm| (*vm).to_owned()).collect();
            missing(&status, &vms).unwrap_or_else(|e| vec![format!("{e:?}")])
        };
        assert_eq!(missing_of(&[]), ["b is backoff"]);
        assert_eq!(missing_of(&["a"]), [] as [&str; 0]);
        assert_eq!(missing_of(&["a", "c", "d"]), ["c is stopped", "d is completed"]);
        assert!(missing_of(&["nope"])[0].contains("no VM"));
    }
}
