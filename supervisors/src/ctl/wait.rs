//! Waits until a supervisor answers and VMs are ready, for scripts.

use super::failure::Failure;
use super::outlook::{Outlook, Outlooks};
use super::session::{ONE_LOOK, Session, find, part_of};
use super::targets::{self, Found};
use super::view::{list, text};
use crate::exit::ProgramExit;
use crate::format::format_duration;
use pepita_supervisor::control::{Client, ClientError};
use serde_json::Value;
use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// The interval of attempts to connect. The kernel does not report the moment at which a supervisor begins to listen.
const RETRY: Duration = Duration::from_millis(50);

/// Waits until the targets are ready; without targets, until all VMs are ready that are to run. Without targets, a VM
/// that has completed counts as ready.
///
/// # Errors
/// When the wait takes longer than `limit`, a target is unknown, a VM cannot get ready any more, or the supervisor ends
/// meanwhile.
pub(super) async fn until_ready(
    socket: &Path,
    targets: &[String],
    limit: Duration,
    patience: Duration,
) -> Result<(), Failure> {
    let begun = Instant::now();
    let until = begun + limit.max(ONE_LOOK);
    let mut seen = format!("there is no supervisor at {}", socket.display());
    let late = |seen: &str| {
        let message = format!("not ready after {}: {seen}", format_duration(limit));
        Err(Failure::new(ProgramExit::NotReady, message))
    };
    let client = loop {
        match timeout_at(until, Client::connect_with_patience(socket, patience)).await {
            // Any other reason, such as a path that is too long, does not go away by itself.
            Ok(Err(ClientError::NoSupervisor { source, .. })) if may_come(&source) => {
                if begun.elapsed() >= limit {
                    return late(&seen);
                }
                sleep(RETRY).await;
            }
            Ok(connected) => break connected?,
            Err(_) => return late(&format!("the supervisor at {} accepts no client", socket.display())),
        }
    };
    seen = format!("the supervisor at {} has not answered", socket.display());
    match timeout_at(until, watch(client, targets, begun + limit, &mut seen)).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) | Err(_) => late(&seen),
        Ok(Err(failure)) => Err(failure),
    }
}

/// Returns whether a supervisor may yet begin to listen where no supervisor was found for this reason.
fn may_come(reason: &io::Error) -> bool {
    matches!(reason.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// Returns whether everything was ready in time.
async fn watch(
    mut client: Client,
    targets: &[String],
    until: Instant,
    seen: &mut String,
) -> Result<bool, Failure> {
    find(&mut client, targets).await?;
    let mut session = Session::watch(client, part_of(targets)).await?;
    loop {
        let status = session.status().await?;
        let Missing { coming, never } = match targets::resolve(&status, targets) {
            Ok(found) => missing(&status, &found, targets.is_empty()),
            Err(unknown) => {
                let message = format!("it was removed from the configuration: {unknown}");
                return Err(Failure::new(ProgramExit::Failed, message));
            }
        };
        if !never.is_empty() {
            return Err(Failure::new(ProgramExit::Failed, never.join("\n")));
        }
        if coming.is_empty() {
            return Ok(true);
        }
        *seen = coming.join(", ");
        if Instant::now() >= until {
            return Ok(false);
        }
        if !session.changed().await? {
            return Err(Failure::new(ProgramExit::Failed, format!("the supervisor has ended: {seen}")));
        }
    }
}

/// The VMs that are not ready.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    /// Those that may get ready, each with its phase.
    coming: Vec<String>,
    /// Why others do not get ready.
    never: Vec<String>,
}

fn missing(status: &Value, found: &Found, all: bool) -> Missing {
    let outlooks = Outlooks::new(status);
    let named: HashSet<&str> = found.vms.iter().map(String::as_str).collect();
    let mut missing = Missing::default();
    for group in list(&status["groups"]) {
        for (vm, outlook) in outlooks.of_group(group) {
            let name = text(&vm["name"]);
            if !(if all { vm["wanted"] == true } else { named.contains(name) }) {
                continue;
            }
            match outlook {
                Outlook::Ready => {}
                Outlook::Done if all => {}
                Outlook::Done => {
                    missing.never.push(format!("{name} is {}, and does not run", text(&vm["phase"])))
                }
                Outlook::Coming => missing.coming.push(format!("{name} is {}", text(&vm["phase"]))),
                Outlook::Never(why) => missing.never.push(why),
            }
        }
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn vms_that_are_not_ready_are_named() {
        let vm = |name, phase, wanted| json!({ "name": name, "phase": phase, "wanted": wanted });
        let status = json!({ "groups": [
            { "name": "g", "vms": [vm("a", "ready", true), vm("b", "backoff", true)] },
            { "name": "h", "vms": [vm("c", "stopped", false), vm("d", "completed", true)] },
        ] });
        let missing_of = |vms: &[&str]| {
            let vms: Vec<String> = vms.iter().map(|vm| (*vm).to_owned()).collect();
            let found = targets::resolve(&status, &vms).expect("known");
            missing(&status, &found, vms.is_empty())
        };
        let none: [&str; 0] = [];
        assert_eq!(
            (missing_of(&[]).coming, missing_of(&[]).never),
            (vec!["b is backoff".to_owned()], vec![])
        );
        assert_eq!(missing_of(&["a"]), Missing::default());
        assert_eq!(missing_of(&["g"]).coming, ["b is backoff"]);
        let named = missing_of(&["a", "c", "duende-vm-d"]);
        assert_eq!(named.coming, none);
        assert_eq!(
            named.never,
            ["c is stopped; `pepitactl start c` starts it", "d is completed, and does not run"]
        );
    }
}
