//! Prints events that arrive over the control socket.

use super::failure::Failure;
use super::options::Span;
use super::session::{LOOK_AGAIN, find, removed};
use super::targets::Found;
use crate::exit::ProgramExit;
use crate::format::{format_event, format_lagged, shown_json};
use crate::output;
use crate::when::is_between;
use pepita_supervisor::control::{Call, Client, Received, StatusPart};
use serde_json::json;
use std::time::{SystemTime, UNIX_EPOCH};

/// The events that are printed.
struct Filter {
    /// The VMs and groups that the events are about; `None` for all events.
    about: Option<Found>,
    since: Option<u64>,
    until: Option<u64>,
}

impl Filter {
    fn lets_through(&self, received: &Received) -> bool {
        let Received::Event(event) = received else { return true };
        let is_about = self.about.as_ref().is_none_or(|about| {
            let word = |key: &str| event[key].as_str().unwrap_or_default();
            about.vms.iter().any(|vm| vm == word("vm")) || about.groups.contains(word("group"))
        });
        is_about && is_between(event["time_ms"].as_u64().unwrap_or_default(), self.since, self.until)
    }

    fn print(&self, received: &Received, as_json: bool) -> Result<(), Failure> {
        if self.lets_through(received) { print_received(received, as_json) } else { Ok(()) }
    }
}

/// Returns the time of the wall clock in milliseconds since 1970; 0 for a clock that was never set.
pub(super) fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

impl Span {
    /// Returns the bounds in milliseconds since 1970.
    ///
    /// # Errors
    /// When the end is before the beginning.
    pub(super) fn bounds(&self, now_ms: u64) -> Result<(Option<u64>, Option<u64>), Failure> {
        let [since, until] =
            [self.since, self.until].map(|moment| moment.map(|moment| moment.unix_ms(now_ms)));
        match (since, until) {
            (Some(since), Some(until)) if until < since => {
                Err(Failure::new(ProgramExit::Usage, "--until is before --since: nothing can be printed"))
            }
            bounds => Ok(bounds),
        }
    }
}

/// Prints the events that the supervisor keeps; with `follow` also new events, until the supervisor ends.
pub(super) async fn print_events(
    mut client: Client,
    targets: &[String],
    follow: bool,
    as_json: bool,
    span: &Span,
) -> Result<(), Failure> {
    let (since, until) = span.bounds(now_ms())?;
    let (status, about) = match targets {
        // No VM has this name: the number of the newest event is wanted, and no VM.
        [] => {
            let part = StatusPart { of: vec![String::new()], brief: true };
            (client.call(Call::StatusOf(part)).await?, None)
        }
        targets => {
            let (status, found) = find(&mut client, targets).await?;
            (status, Some(found))
        }
    };
    let filter = Filter { about, since, until };
    let newest = status["seq"].as_u64().unwrap_or_default();
    client.call(Call::Events { after: Some(0) }).await?;
    if !follow && newest == 0 {
        return Ok(());
    }
    if follow {
        return follow_events(client, targets, &filter, as_json).await;
    }
    while let Some(received) = client.receive().await? {
        filter.print(&received, as_json)?;
        if let Received::Event(event) = &received
            && event["seq"].as_u64() >= Some(newest)
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Prints events until the supervisor ends, the reader of the output goes away, or nothing is left of what they are about.
async fn follow_events(
    mut client: Client,
    targets: &[String],
    filter: &Filter,
    as_json: bool,
) -> Result<(), Failure> {
    let gone = output::reader_gone();
    tokio::pin!(gone);
    // No event tells of a VM that was removed while it was down.
    let mut look = tokio::time::interval(LOOK_AGAIN);
    loop {
        let received = tokio::select! {
            received = client.receive() => received?,
            () = &mut gone => return Err(Failure::OutputClosed),
            _ = look.tick(), if filter.about.is_some() => {
                let removed = removed(&mut client, targets).await?;
                // What was told before that.
                while let Some(received) = client.waiting() {
                    filter.print(&received, as_json)?;
                }
                if removed.len() == targets.len() {
                    return Err(Failure::removed(&removed));
                }
                continue;
            }
        };
        let Some(received) = received else { return Err(Failure::supervisor_ended()) };
        filter.print(&received, as_json)?;
    }
}

/// Prints an event, or the number of missed events. A late answer is dropped.
pub(super) fn print_received(received: &Received, as_json: bool) -> Result<(), Failure> {
    let text = match (received, as_json) {
        (Received::Answer { .. }, _) => return Ok(()),
        (Received::Event(event), true) => shown_json(event),
        (Received::Lagged(missed), true) => shown_json(&json!({ "lagged": missed })),
        (Received::Event(event), false) => format_event(event),
        (Received::Lagged(missed), false) => format_lagged(*missed),
    };
    Ok(output::try_print(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::when::Moment;
    use serde_json::Value;

    fn found(vms: &[&str], groups: &[&str]) -> Found {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        Found { vms: owned(vms), by_name: true, groups: owned(groups).into_iter().collect() }
    }

    #[test]
    fn events_are_chosen_by_vm_group_and_time() {
        let event = |vm: Value, group: &str, time_ms: u64| {
            Received::Event(json!({ "vm": vm, "group": group, "time_ms": time_ms }))
        };
        let all = [event(json!("a"), "g", 1), event(json!("b"), "g", 2), event(Value::Null, "h", 3)];
        let through = |about, since, until| -> Vec<usize> {
            let filter = Filter { about, since, until };
            (0..all.len()).filter(|n| filter.lets_through(&all[*n])).collect()
        };
        assert_eq!(through(None, None, None), [0, 1, 2]);
        assert_eq!(through(Some(found(&["a"], &[])), None, None), [0]);
        assert_eq!(through(Some(found(&[], &["h"])), None, None), [2]);
        assert_eq!(through(None, Some(2), Some(2)), [1]);
        assert_eq!(through(None, Some(u64::MAX), None), [0; 0]);
        assert!(Filter { about: None, since: Some(9), until: None }.lets_through(&Received::Lagged(3)));
    }

    #[test]
    fn a_span_without_any_moment_in_it_is_refused() {
        let span =
            |since, until| Span { since: Some(Moment::At(since)), until: Some(Moment::At(until)) }.bounds(9);
        assert!(span(2, 1).is_err());
        assert!(matches!(span(-5, -9), Ok((Some(0), Some(0)))));
    }
}
