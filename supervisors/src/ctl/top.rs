//! A table that is redrawn with every change. Plain ANSI, on the terminal's other screen, which is left again whatever
//! happens.

use super::{Failure, table};
use crate::exit::Exit;
use crate::line;
use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use pepita_supervisor::control::{Call, Client, Heard};
use std::collections::VecDeque;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// For the times that the table shows.
const REDRAW: Duration = Duration::from_secs(1);

/// The newest events, below the table.
const EVENTS: usize = 64;

/// The other screen. Dropped, the terminal is as it was.
struct Screen;

impl Screen {
    fn enter() -> Result<Self, Failure> {
        // Other screen, no cursor, long lines are cut.
        write!(stdout(), "\x1b[?1049h\x1b[?25l\x1b[?7l")?;
        Ok(Self)
    }

    /// Draws over what was there, so that nothing flickers.
    fn draw(&self, lines: &[String]) -> Result<(), Failure> {
        let mut text = String::from("\x1b[H");
        // Who wants no colours still wants them in their places.
        let plain = AutoStream::choice(&stdout()) == ColorChoice::Never;
        for line in lines {
            match plain {
                true => text.push_str(&strip_str(line).to_string()),
                false => text.push_str(line),
            }
            // The rest of the line, and then of the screen, is blank.
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
        // A terminal that is gone needs no restoring.
        let _ = write!(stdout(), "\x1b[?7h\x1b[?25h\x1b[?1049l");
        let _ = stdout().flush();
    }
}

pub(super) async fn run(mut client: Client) -> Result<(), Failure> {
    if !stdout().is_terminal() {
        let text = "top needs a terminal; for a program there is `pepitactl status --json`";
        return Err(Failure::Told(Exit::Usage, text.into()));
    }
    let mut signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::window_change()]
        .map(|kind| signal(kind).map_err(|e| Failure::Told(Exit::Failed, e.to_string())));
    let [Ok(int), Ok(term), Ok(resized)] = &mut signals else {
        return Err(Failure::Told(Exit::Failed, "signals cannot be watched".into()));
    };
    client.call(Call::Events { after: Some(0) }).await?;
    let screen = Screen::enter()?;
    let mut redraw = tokio::time::interval(REDRAW);
    let mut events = VecDeque::new();
    loop {
        let status = client.call(Call::Status).await?;
        while let Some(heard) = client.waiting() {
            remember(&mut events, &heard);
        }
        let mut lines = vec![format!(
            "{} (pid {}); Ctrl-C ends this view",
            status["name"].as_str().unwrap_or_default(),
            status["pid"]
        )];
        lines.push(String::new());
        lines.extend(table::status(&status).lines().map(str::to_owned));
        lines.push(String::new());
        // A terminal that does not know its size says 0.
        let rows = rustix::termios::tcgetwinsize(stdout()).map_or(0, |size| size.ws_row);
        let height = if rows == 0 { 24 } else { usize::from(rows) };
        let room = height.saturating_sub(lines.len() + 1);
        lines.extend(events.iter().skip(events.len().saturating_sub(room)).cloned());
        lines.truncate(height.saturating_sub(1));
        screen.draw(&lines)?;
        tokio::select! {
            heard = client.hear() => match heard? {
                Some(heard) => remember(&mut events, &heard),
                None => break,
            },
            _ = redraw.tick() => {}
            _ = resized.recv() => {}
            _ = int.recv() => return Ok(()),
            _ = term.recv() => return Ok(()),
        }
    }
    drop(screen);
    Err(Failure::Told(Exit::Failed, "the supervisor has ended".into()))
}

fn remember(events: &mut VecDeque<String>, heard: &Heard) {
    let line = match heard {
        Heard::Event(event) => line::told(event),
        Heard::Lagged(missed) => line::lagged(*missed),
        Heard::Answer { .. } => return,
    };
    if events.len() == EVENTS {
        events.pop_front();
    }
    events.push_back(line);
}
