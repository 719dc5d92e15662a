//! `pepitactl top`: a table that is redrawn with every change. Uses plain ANSI sequences on the terminal's alternate
//! screen, and always leaves that screen at the end of the command.

use super::failure::Failure;
use super::processes::Processes;
use super::table;
use crate::exit::ProgramExit;
use crate::format::{format_event, format_lagged};
use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use pepita_supervisor::control::{Call, Client, ClientError, Received, StatusPart};
use std::collections::VecDeque;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep_until};

/// The interval at which the table is redrawn without a change, because it shows durations.
const REDRAW: Duration = Duration::from_secs(1);

/// The number of events that are kept for the space below the table.
const EVENTS: usize = 64;

/// The alternate screen. Dropping it restores the terminal.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, Failure> {
        // Switches to the alternate screen, hides the cursor and turns line wrapping off.
        write!(stdout(), "\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(Self)
    }

    /// Draws over the former lines instead of clearing the screen first, which would flicker.
    fn draw(&self, lines: &[String]) -> Result<(), Failure> {
        let mut text = String::from("\x1b[H");
        // Without colours the sequences that place the lines are still needed.
        let plain = AutoStream::choice(&stdout()) == ColorChoice::Never;
        for line in lines {
            match plain {
                true => text.push_str(&strip_str(line).to_string()),
                false => text.push_str(line),
            }
            // Clears the rest of the line, and at the end the rest of the screen.
            text.push_str("\x1b[K\r\n");
        }
        text.push_str("\x1b[J");
        let mut out = stdout();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Restoring fails only when the terminal is gone.
        let _ = write!(stdout(), "\x1b[?7h\x1b[?25h\x1b[?1049l");
        let _ = stdout().flush();
    }
}

/// Shows the table until the supervisor ends, or a signal ends the command.
///
/// # Errors
/// When standard output is no terminal, or the supervisor ends.
pub(super) async fn run(mut client: Client) -> Result<(), Failure> {
    if !stdout().is_terminal() {
        let text = "top needs a terminal; for a program there is `pepitactl status --json`";
        return Err(Failure::new(ProgramExit::Usage, text));
    }
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::window_change()]
        .map(|kind| signal(kind));
    let [Ok(int), Ok(term), Ok(resized)] = &mut signals else {
        return Err(Failure::new(ProgramExit::Failed, "signals cannot be handled"));
    };
    client.call(Call::Events { after: Some(0) }).await?;
    let part = StatusPart { brief: true, ..StatusPart::default() };
    let screen = Screen::enter()?;
    let mut redraw = tokio::time::interval(REDRAW);
    let mut events = VecDeque::new();
    let mut processes = Processes::default();
    loop {
        let before = Instant::now();
        let mut status = client.call(Call::StatusOf(part.clone())).await?;
        // With many VMs the view changes less often, so that it takes a tenth of the supervisor's time at most.
        let pace = before + before.elapsed() * 10;
        while let Some(received) = client.waiting() {
            keep(&mut events, &received);
        }
        processes.add(&mut status, Instant::now());
        // A terminal that does not know its size reports 0.
        let rows = rustix::termios::tcgetwinsize(stdout()).map_or(0, |size| size.ws_row);
        // The last line stays free: the end of a line there would move all others up.
        let height = (if rows == 0 { 24 } else { usize::from(rows) }).saturating_sub(1);
        let mut lines = vec![format!(
            "{} (pid {}); Ctrl-C ends this view",
            status["name"].as_str().unwrap_or_default(),
            status["pid"]
        )];
        lines.push(String::new());
        lines.extend(table::top(&status, height.saturating_sub(lines.len())));
        lines.push(String::new());
        let room = height.saturating_sub(lines.len());
        lines.extend(events.iter().skip(events.len().saturating_sub(room)).cloned());
        lines.truncate(height);
        screen.draw(&lines)?;
        tokio::select! {
            received = next(&mut client, pace) => match received? {
                Some(received) => keep(&mut events, &received),
                None => break,
            },
            _ = redraw.tick() => {}
            _ = resized.recv() => {}
            _ = int.recv() => return Ok(()),
            _ = term.recv() => return Ok(()),
        }
    }
    drop(screen);
    Err(Failure::supervisor_ended())
}

/// Returns the next message, not before the moment at which the view may change again.
async fn next(client: &mut Client, pace: Instant) -> Result<Option<Received>, ClientError> {
    sleep_until(pace).await;
    client.receive().await
}

/// Keeps the line of an event, and drops the oldest line over the limit.
fn keep(events: &mut VecDeque<String>, received: &Received) {
    let line = match received {
        Received::Event(event) => format_event(event),
        Received::Lagged(missed) => format_lagged(*missed),
        Received::Answer { .. } => return,
    };
    if events.len() == EVENTS {
        events.pop_front();
    }
    events.push_back(line);
}
