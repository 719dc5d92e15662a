//! A client with what the commands share: the search for targets, and the wait for a change at a pace that leaves the
//! supervisor its time.

use super::failure::Failure;
use super::targets::{self, Found};
use crate::exit::ProgramExit;
use pepita_supervisor::control::{Call, Client, StatusPart};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The part of the time in which a command that waits may ask for the status of many VMs: one tenth.
const PACE: u32 = 10;

/// The longest time between a change and the next look at the status.
const LONGEST_PACE: Duration = Duration::from_secs(2);

/// The time after which the status is asked for without an event: no event tells of a VM that was removed while it was
/// down.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The least time that one look at the supervisor is given, also when the time to wait is over sooner: without a look
/// nothing true can be said.
pub(super) const ONE_LOOK: Duration = Duration::from_millis(500);

/// A client that waits for changes.
pub(super) struct Session {
    pub(super) client: Client,
    part: StatusPart,
    /// How long the last answer with a status took.
    took: Duration,
}

impl Session {
    /// Begins to hear of events, and asks from here on for this part of the status.
    pub(super) async fn watch(mut client: Client, part: StatusPart) -> Result<Self, Failure> {
        client.call(Call::Events { after: None }).await?;
        Ok(Self { client, part, took: Duration::ZERO })
    }

    /// Returns the present status.
    pub(super) async fn status(&mut self) -> Result<Value, Failure> {
        // A change that was told before is in the status already.
        while self.client.waiting().is_some() {}
        let before = Instant::now();
        let status = self.client.call(Call::StatusOf(self.part.clone())).await?;
        self.took = before.elapsed();
        Ok(status)
    }

    /// Waits until the status may have changed. Returns whether the supervisor is still there.
    pub(super) async fn changed(&mut self) -> Result<bool, Failure> {
        if let Ok(received) = timeout(LOOK_AGAIN, self.client.receive()).await
            && received?.is_none()
        {
            return Ok(false);
        }
        // One look at the status is enough for any number of events.
        sleep((self.took * PACE).min(LONGEST_PACE)).await;
        Ok(true)
    }
}

/// Returns the targets that are not in the configuration any more.
pub(super) async fn removed<'t>(client: &mut Client, targets: &'t [String]) -> Result<Vec<&'t str>, Failure> {
    let status = client.call(Call::StatusOf(part_of(targets))).await?;
    let is_gone = |target: &&String| targets::resolve(&status, std::slice::from_ref(*target)).is_err();
    Ok(targets.iter().filter(is_gone).map(String::as_str).collect())
}

/// Returns the part of the status that is about these targets, without long texts.
pub(super) fn part_of(targets: &[String]) -> StatusPart {
    StatusPart { of: targets::names(targets), brief: true }
}

/// Finds targets. Returns the status in which they were found.
pub(super) async fn find(client: &mut Client, names: &[String]) -> Result<(Value, Found), Failure> {
    find_in(client, names, part_of(names)).await
}

/// Finds targets in a part of the status.
pub(super) async fn find_in(
    client: &mut Client,
    names: &[String],
    part: StatusPart,
) -> Result<(Value, Found), Failure> {
    let is_all = part.of.is_empty();
    let status = client.call(Call::StatusOf(part)).await?;
    let unknown = match targets::resolve(&status, names) {
        Ok(found) => return Ok((status, found)),
        Err(unknown) => unknown,
    };
    if is_all {
        return Err(Failure::new(ProgramExit::Refused, unknown.to_string()));
    }
    // All names are needed to say what was probably meant.
    let part = StatusPart { of: Vec::new(), brief: true };
    let status = client.call(Call::StatusOf(part)).await?;
    let found = targets::resolve(&status, names);
    found
        .map(|found| (status, found))
        .map_err(|unknown| Failure::new(ProgramExit::Refused, unknown.to_string()))
}
