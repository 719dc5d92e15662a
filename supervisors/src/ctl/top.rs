//! A table that is redrawn with every change. Plain ANSI, on the terminal's other screen, which is left again whatever
//! happens.

use super::{Failure, table};
use crate::exit::Exit;
use crate::line;
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
        // Other screen, no cursor.
        write!(stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(Self)
    }

    /// Draws over what was there, so that nothing flickers.
    fn draw(&self, lines: &[String]) -> Result<(), Failure> {
        let mut text = String::from("\x1b[H");
        for line in lines {
            text.push_str(line);
            // The rest of the line, and then of the screen, is blank.
            text.push_str("\x1b[K\r\n");
        }
        text.push_str("\x1b[J");
        let mut out = anstream::stdout();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs no restoring.
        let _ = write!(stdout(), "\x1b[?25h\x1b[?1049l");
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
        let mut lines = vec![format!("{} (pid {}); Ctrl-C ends this view", status["name"], status["pid"])];
        lines.push(String::new());
        lines.extend(table::status(&status).lines().map(str::to_owned));
        lines.push(String::new());
        let height = usize::from(rustix::termios::tcgetwinsize(stdout()).map_or(24, |size| size.ws_row));
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
