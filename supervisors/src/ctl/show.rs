//! Prints events that come over the control socket.

use super::Failure;
use crate::exit::Exit;
use crate::line;
use pepita_supervisor::control::{Call, Client, Heard};
use serde_json::json;
use std::io::Write;

/// Those that are still kept; with `follow` those that come, too.
pub(super) async fn events(mut client: Client, follow: bool, as_json: bool) -> Result<(), Failure> {
    let newest = client.call(Call::Status).await?["seq"].as_u64().unwrap_or_default();
    client.call(Call::Events { after: Some(0) }).await?;
    if !follow && newest == 0 {
        return Ok(());
    }
    while let Some(received) = client.hear().await? {
        heard(&received, as_json)?;
        if let Heard::Event(event) = &received
            && !follow
            && event["seq"].as_u64() >= Some(newest)
        {
            return Ok(());
        }
    }
    if follow { Err(Failure::Told(Exit::Failed, "the supervisor has ended".into())) } else { Ok(()) }
}

pub(super) fn heard(heard: &Heard, as_json: bool) -> Result<(), Failure> {
    let text = match (heard, as_json) {
        // To a question whose asker has given up.
        (Heard::Answer { .. }, _) => return Ok(()),
        (Heard::Event(event), true) => event.to_string(),
        (Heard::Lagged(missed), true) => json!({ "lagged": missed }).to_string(),
        (Heard::Event(event), false) => line::told(event),
        (Heard::Lagged(missed), false) => line::lagged(*missed),
    };
    let mut out = anstream::stdout();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
