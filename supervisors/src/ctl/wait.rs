//! Waits until a supervisor is there and VMs are ready, for scripts.

use super::Failure;
use crate::exit::Exit;
use pepita_supervisor::control::{Call, Client, ClientError};
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// Between two looks whether there is a supervisor: nothing tells when a socket gets its listener.
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn until_ready(socket: &Path, vms: &[String], limit: Duration) -> Result<(), Failure> {
    let mut waiting = "there is no supervisor yet".to_owned();
    match tokio::time::timeout(limit, watch(socket, vms, &mut waiting)).await {
        Ok(done) => done,
        Err(_) => Err(Failure::Told(Exit::NotYet, format!("not ready after {limit:?}: {waiting}"))),
    }
}

async fn watch(socket: &Path, vms: &[String], waiting: &mut String) -> Result<(), Failure> {
    let mut client = loop {
        match Client::connect(socket).await {
            Err(ClientError::NoSupervisor { .. }) => tokio::time::sleep(LOOK).await,
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
        *waiting = missing.join(", ");
        if client.hear().await?.is_none() {
            return Err(Failure::Told(Exit::Failed, format!("the supervisor has ended: {waiting}")));
        }
        // Any number of events is answered by one look.
        while client.waiting().is_some() {}
    }
}

/// Those that are not ready, and where they are instead.
fn missing(status: &Value, vms: &[String]) -> Result<Vec<String>, Failure> {
    let groups = status["groups"].as_array().map_or(&[][..], Vec::as_slice);
    let all: Vec<&Value> = groups.iter().filter_map(|group| group["vms"].as_array()).flatten().collect();
    if let Some(unknown) = vms.iter().find(|name| !all.iter().any(|vm| vm["name"] == name.as_str())) {
        return Err(Failure::Told(Exit::Refused, format!("no VM {unknown:?} in this tree")));
    }
    let meant = |vm: &&&Value| match vms {
        [] => vm["wanted"] == true,
        vms => vms.iter().any(|name| vm["name"] == name.as_str()),
    };
    let there = |vm: &Value| vm["phase"] == "ready" || (vms.is_empty() && vm["phase"] == "completed");
    let missing = all.iter().filter(meant).filter(|vm| !there(vm));
    let told = |vm: &&Value| {
        let word = |key: &str| vm[key].as_str().unwrap_or_default().to_owned();
        format!("{} is {}", word("name"), word("phase"))
    };
    Ok(missing.map(told).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_ready_is_named() {
        let vm = |name, phase, wanted| json!({ "name": name, "phase": phase, "wanted": wanted });
        let status = json!({ "groups": [
            { "vms": [vm("a", "ready", true), vm("b", "backoff", true)] },
            { "vms": [vm("c", "stopped", false), vm("d", "completed", true)] },
        ] });
        let told = |vms: &[&str]| {
            let vms: Vec<String> = vms.iter().map(|vm| (*vm).to_owned()).collect();
            missing(&status, &vms).unwrap_or_else(|e| vec![format!("{e:?}")])
        };
        assert_eq!(told(&[]), ["b is backoff"]);
        assert_eq!(told(&["a"]), [] as [&str; 0]);
        assert_eq!(told(&["a", "c", "d"]), ["c is stopped", "d is completed"]);
        assert!(told(&["nope"])[0].contains("no VM"));
    }
}
