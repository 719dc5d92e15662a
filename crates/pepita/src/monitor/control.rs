//! The monitor's clients: commands and supervisors that make requests over `ctl.sock`, one JSON object a line, without
//! a hello. The socket is in a directory of mode 0700, so every program that can connect is authorised.

use super::stream::Stream;
use crate::host::wait::wait_readable;
use pepita_wire::frame::Outcome;
use pepita_wire::{ErrorKind, Lines, Request, StatusRecord, ToGuest, ToHost, WireError};
use rustix::event::PollFlags;
use serde_json::Value;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

/// The maximum number of clients at the same time that have asked for something. Further connections are closed.
const CLIENTS: usize = 256;

/// The maximum number of clients that have not asked for anything yet. For one more, the oldest of them is dropped, so
/// that silent clients keep no other client out.
const SILENT: usize = 64;

/// The listening socket and its clients.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    clients: BTreeMap<u64, Client>,
    last: u64,
}

/// The client and the request that an answer is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReplyTo {
    pub(super) client: u64,
    pub(super) id: u64,
}

#[derive(Debug)]
struct Client {
    stream: Stream,
    lines: Lines,
    watch: Option<Watch>,
    /// The revision in the answer to the last long poll.
    told: Option<u64>,
    /// Whether the client has asked for anything yet.
    has_asked: bool,
    /// Whether the client uses the VM as long as it is connected.
    keeps_awake: bool,
    /// The descriptors that have come with requests, until a request takes them.
    descriptors: Vec<OwnedFd>,
}

/// The long poll that waits for an answer.
#[derive(Debug)]
struct Watch {
    id: u64,
    /// The revision that the client knows.
    since: u64,
}

impl Control {
    /// Returns the clients of a listening socket; there are none yet.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub(crate) fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: BTreeMap::new(), last: 0 })
    }

    /// Returns the descriptors to poll: the listening socket, and each client with its number.
    pub(crate) fn interest(&self) -> impl Iterator<Item = (Option<u64>, BorrowedFd<'_>, PollFlags)> {
        let clients = self.clients.iter().map(|(n, c)| (Some(*n), c.stream.as_fd(), c.stream.interest()));
        std::iter::once((None, self.listener.as_fd(), PollFlags::IN)).chain(clients)
    }

    /// Accepts new clients.
    pub(crate) fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS + SILENT && stream.set_nonblocking(true).is_ok() {
                self.last += 1;
                let (stream, lines) = (Stream::new(OwnedFd::from(stream)), Lines::new());
                let client = Client {
                    stream,
                    lines,
                    watch: None,
                    told: None,
                    has_asked: false,
                    keeps_awake: false,
                    descriptors: Vec::new(),
                };
                self.clients.insert(self.last, client);
                self.drop_silent();
            }
        }
    }

    /// Drops the oldest silent client when there are too many. A client whose request has come and was not read yet is
    /// not silent.
    fn drop_silent(&mut self) {
        let is_silent = |client: &Client| !client.has_asked && !wait_readable(&client.stream, Duration::ZERO);
        let mut silent = self.clients.iter().filter(|(_, client)| !client.has_asked);
        if silent.clone().count() > SILENT
            && let Some(oldest) = silent.find(|(_, client)| is_silent(client)).map(|(number, _)| *number)
        {
            self.clients.remove(&oldest);
        }
    }

    /// Reads the requests of a client. A client that has hung up is dropped; its earlier requests are still returned.
    pub(crate) fn read(&mut self, number: u64) -> Vec<Request> {
        let asked = self.clients.values().filter(|client| client.has_asked).count();
        let Some(client) = self.clients.get_mut(&number) else { return Vec::new() };
        let Client { stream, lines, has_asked, descriptors, .. } = client;
        let mut is_over = stream.receive_into(lines, descriptors).is_err();
        let mut requests = Vec::new();
        while let Some(line) = lines.next_line() {
            let frame = line.map_err(|e| e.to_string());
            match frame.and_then(|line| ToGuest::decode(line).map_err(|e| e.to_string())) {
                Ok(ToGuest::Request(request)) if *has_asked || asked < CLIENTS => {
                    *has_asked = true;
                    requests.push(request);
                }
                Ok(ToGuest::Request(_)) => is_over = true,
                Ok(ToGuest::Hello(_)) => {}
                Err(why) => {
                    let refusal = Err(WireError::new(ErrorKind::BadRequest, why));
                    is_over |= stream.send(&ToHost::Answer { id: 0, outcome: refusal }.encode()).is_err();
                }
            }
        }
        if is_over {
            self.clients.remove(&number);
        }
        requests
    }

    /// Answers a client that is still connected.
    pub(crate) fn answer(&mut self, number: u64, id: u64, outcome: Outcome) {
        if let Some(client) = self.clients.get_mut(&number)
            && client.stream.send(&ToHost::Answer { id, outcome }.encode()).is_err()
        {
            self.clients.remove(&number);
        }
    }

    /// Counts a client as one that uses the VM.
    pub(crate) fn keep_awake(&mut self, number: u64) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.keeps_awake = true;
        }
    }

    /// Returns whether a client uses the VM.
    pub(crate) fn keeps_awake(&self) -> bool {
        self.clients.values().any(|client| client.keeps_awake)
    }

    /// Returns whether a client is still connected.
    pub(crate) fn has(&self, number: u64) -> bool {
        self.clients.contains_key(&number)
    }

    /// Returns the first descriptors of those that a client has sent.
    pub(crate) fn take_descriptors(&mut self, number: u64, count: usize) -> Vec<OwnedFd> {
        let Some(client) = self.clients.get_mut(&number) else { return Vec::new() };
        let count = count.min(client.descriptors.len());
        client.descriptors.drain(..count).collect()
    }

    /// Answers a client with descriptors. Returns whether the client has got it: a client that is gone or does not read
    /// gets none.
    pub(crate) fn hand_over(
        &mut self,
        number: u64,
        id: u64,
        answer: Value,
        descriptors: &[BorrowedFd<'_>],
    ) -> bool {
        let Some(client) = self.clients.get_mut(&number) else { return false };
        let answer = ToHost::Answer { id, outcome: Ok(answer) }.encode();
        let is_sent = client.stream.send_with(&answer, descriptors).is_ok();
        if !is_sent {
            self.clients.remove(&number);
        }
        is_sent
    }

    /// Stores a long poll. [`Control::tell`] answers it when the revision of the status differs from the revision that
    /// the client knows.
    pub(crate) fn watch(&mut self, number: u64, id: u64, since: u64) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.watch = Some(Watch { id, since });
        }
    }

    /// Answers the long polls of clients that do not know this revision. A client may know a later revision from a
    /// former monitor whose last status did not reach the disk, so any difference of the revisions counts.
    pub(crate) fn tell(&mut self, status: &StatusRecord) {
        let is_waiting =
            |client: &Client| client.watch.as_ref().is_some_and(|watch| watch.since != status.revision);
        let waiting: Vec<u64> = self.clients.iter().filter(|(_, c)| is_waiting(c)).map(|(n, _)| *n).collect();
        if waiting.is_empty() {
            return;
        }
        let record = serde_json::to_value(status).expect("a record becomes JSON");
        for number in waiting {
            let Some(client) = self.clients.get_mut(&number) else { continue };
            if let Some(watch) = client.watch.take() {
                client.told = Some(status.revision);
                self.answer(number, watch.id, Ok(record.clone()));
            }
        }
    }

    /// Returns whether a watching client has not received this revision yet, because the client is between two long
    /// polls.
    pub(crate) fn owes(&self, revision: u64) -> bool {
        self.clients.values().any(|client| client.told.is_some_and(|told| told < revision))
    }

    /// Returns whether nothing waits to be written to any client.
    pub(crate) fn is_flushed(&self) -> bool {
        self.clients.values().all(|client| client.stream.is_flushed())
    }
}
