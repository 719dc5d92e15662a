//! Prints events that arrive over the control socket.

use super::failure::Failure;
use crate::format::{format_event, format_lagged};
use pepita_supervisor::control::{Call, Client, Received};
use serde_json::json;
use std::io::Write;

/// Prints the events that the supervisor keeps; with `follow` also new events, until the supervisor ends.
pub(super) async fn print_events(mut client: Client, follow: bool, as_json: bool) -> Result<(), Failure> {
    let newest = client.call(Call::Status).await?["seq"].as_u64().unwrap_or_default();
    client.call(Call::Events { after: Some(0) }).await?;
    if !follow && newest == 0 {
        return Ok(());
    }
    while let Some(received) = client.receive().await? {
        print_received(&received, as_json)?;
        if let Received::Event(event) = &received
            && !follow
            && event["seq"].as_u64() >= Some(newest)
        {
            return Ok(());
        }
    }
    if follow { Err(Failure::supervisor_ended()) } else { Ok(()) }
}

/// Prints an event, or the number of missed events. A late answer is dropped.
pub(super) fn print_received(received: &Received, as_json: bool) -> Result<(), Failure> {
    let text = match (received, as_json) {
        (Received::Answer { .. }, _) => return Ok(()),
        (Received::Event(event), true) => event.to_string(),
        (Received::Lagged(missed), true) => json!({ "lagged": missed }).to_string(),
        (Received::Event(event), false) => format_event(event),
        (Received::Lagged(missed), false) => format_lagged(*missed),
    };
    let mut out = anstream::stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
