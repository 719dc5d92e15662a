//! Prints events and notes from a thread of its own: a terminal that stands still stops nothing but itself.

use crate::line;
use pepita_supervisor::observe::{Event, Events, Received};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Notes that may wait for a terminal that stands still.
const NOTES: usize = 64;

/// At the end, for what is still to be printed.
const GOODBYE: Duration = Duration::from_secs(2);

/// How things are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A line each, for people.
    Lines,
    /// A JSON object a line, for programs.
    Json,
    /// Not at all.
    Quiet,
}

/// Where notes go.
#[derive(Debug, Clone)]
pub struct Notes {
    sender: mpsc::Sender<(SystemTime, String)>,
}

impl Notes {
    /// Prints a note; drops it when too many wait.
    pub fn say(&self, text: impl Into<String>) {
        let _ = self.sender.try_send((SystemTime::now(), text.into()));
    }
}

/// The thread.
#[derive(Debug)]
pub struct Printer {
    form: Form,
    notes: mpsc::Receiver<(SystemTime, String)>,
}

impl Printer {
    /// A printer, and where its notes go. Nothing is printed before [`Printer::start`].
    pub fn new(form: Form) -> (Self, Notes) {
        let (sender, notes) = mpsc::channel(NOTES);
        (Self { form, notes }, Notes { sender })
    }

    /// Prints until the events end and no [`Notes`] are left.
    pub fn start(self, events: Events) -> Printing {
        let runtime = Handle::current();
        Printing { thread: tokio::task::spawn_blocking(move || runtime.block_on(self.print(events))) }
    }

    async fn print(mut self, mut events: Events) {
        let (mut news, mut talk) = (true, true);
        while news || talk {
            tokio::select! {
                biased;
                said = self.notes.recv(), if talk => match said {
                    Some((time, text)) => self.note(time, &text),
                    None => talk = false,
                },
                received = events.next(), if news => match received {
                    Some(received) => self.show(&received),
                    None => news = false,
                },
            }
        }
    }

    fn show(&self, received: &Received) {
        // Nobody may be reading.
        let _ = match (self.form, received) {
            (Form::Quiet, _) => Ok(()),
            (Form::Lines, Received::Event(event)) => coloured(&line::event(event)),
            (Form::Lines, Received::Lagged(missed)) => coloured(&line::lagged(*missed)),
            (Form::Json, Received::Event(event)) => plain(&Event::to_json(event)),
            (Form::Json, Received::Lagged(missed)) => plain(&json!({ "lagged": missed })),
        };
    }

    fn note(&self, time: SystemTime, text: &str) {
        let ms = time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
        let _ = match self.form {
            Form::Quiet => Ok(()),
            Form::Lines => coloured(&line::note(time, text)),
            Form::Json => plain(&json!({ "event": "supervisor", "time_ms": ms, "text": text })),
        };
    }
}

/// A printer at work.
#[derive(Debug)]
pub struct Printing {
    thread: JoinHandle<()>,
}

impl Printing {
    /// Waits until all is printed, for a moment.
    pub async fn finish(self) {
        let _ = tokio::time::timeout(GOODBYE, self.thread).await;
    }
}

fn coloured(text: &str) -> io::Result<()> {
    writeln!(anstream::stdout().lock(), "{text}")
}

fn plain(value: &Value) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{value}")
}
