//! Prints events and notes from a thread of its own, so that a blocked terminal delays nothing else.

use crate::format::{format_event, format_lagged, format_note, shown_json};
use crate::output;
use pepita_supervisor::{Events, Received};
use serde_json::{Value, json};
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The maximum number of notes that wait for a blocked terminal. Further notes are dropped.
const NOTES: usize = 64;

/// The time that the end of the program waits for the rest of the output.
const FINISH: Duration = Duration::from_secs(2);

/// The format of events and notes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    /// One line for each event, for people.
    Lines,
    /// One JSON object per line, for programs.
    Json,
    /// No output for events at all.
    Quiet,
}

/// A note of the program itself: a sentence for people, and the same as data.
#[derive(Debug)]
pub(crate) struct Note {
    /// The sentence for people.
    pub(crate) text: String,
    /// An object with a `kind` and further data for programs.
    pub(crate) data: Value,
}

/// The sending side of the printer's channel for notes.
#[derive(Debug, Clone)]
pub(crate) struct Notes {
    sender: mpsc::Sender<(SystemTime, Note)>,
}

impl Notes {
    /// Prints a note. Drops it when too many are waiting.
    pub(crate) fn print(&self, note: impl Into<Note>) {
        let _ = self.sender.try_send((SystemTime::now(), note.into()));
    }
}

/// A printer that was not started yet.
#[derive(Debug)]
pub(crate) struct Printer {
    format: OutputFormat,
    notes: mpsc::Receiver<(SystemTime, Note)>,
}

impl Printer {
    /// Returns a printer and the sender of its notes. Nothing is printed before [`Printer::start`].
    pub(crate) fn new(format: OutputFormat) -> (Self, Notes) {
        let (sender, notes) = mpsc::channel(NOTES);
        (Self { format, notes }, Notes { sender })
    }

    /// Prints until the events end and all [`Notes`] are dropped.
    pub(crate) fn start(self, events: Events) -> Printing {
        let runtime = Handle::current();
        Printing { thread: tokio::task::spawn_blocking(move || runtime.block_on(self.run(events))) }
    }

    async fn run(mut self, mut events: Events) {
        let (mut more_events, mut more_notes) = (true, true);
        while more_events || more_notes {
            tokio::select! {
                biased;
                note = self.notes.recv(), if more_notes => match note {
                    Some((time, note)) => self.print_note(time, &note),
                    None => more_notes = false,
                },
                received = events.next(), if more_events => match received {
                    Some(received) => self.print_event(&received),
                    None => more_events = false,
                },
            }
        }
    }

    fn print_event(&self, received: &Received) {
        // The reader of the output may be gone. The supervisor continues without it.
        let _ = match (self.format, received) {
            (OutputFormat::Quiet, _) => Ok(()),
            (OutputFormat::Lines, Received::Event(event)) => print_line(&format_event(&event.to_json())),
            (OutputFormat::Lines, Received::Lagged(missed)) => print_line(&format_lagged(*missed)),
            (OutputFormat::Json, Received::Event(event)) => print_json(&event.to_json()),
            (OutputFormat::Json, Received::Lagged(missed)) => print_json(&json!({ "lagged": missed })),
        };
    }

    fn print_note(&self, time: SystemTime, note: &Note) {
        let _ = match self.format {
            OutputFormat::Quiet => Ok(()),
            OutputFormat::Lines => print_line(&format_note(time, &note.text)),
            OutputFormat::Json => print_json(&note_json(time, note)),
        };
    }
}

/// Returns a note as JSON: an event of the kind `supervisor`.
fn note_json(time: SystemTime, note: &Note) -> Value {
    let ms = time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
    json!({ "event": "supervisor", "time_ms": ms, "text": note.text, "note": note.data })
}

/// A printer that was started.
#[derive(Debug)]
pub(crate) struct Printing {
    thread: JoinHandle<()>,
}

impl Printing {
    /// Waits until all is printed, at most for two seconds.
    pub(crate) async fn finish(self) {
        let _ = tokio::time::timeout(FINISH, self.thread).await;
    }
}

fn print_line(text: &str) -> io::Result<()> {
    output::try_print(text)
}

fn print_json(value: &Value) -> io::Result<()> {
    output::try_write(format!("{}\n", shown_json(value)).as_bytes())
}
