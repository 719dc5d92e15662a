//! The monitor's clients: commands and supervisors that ask over `ctl.sock`, one JSON object a line, without hello.
//! The socket lies in a directory of mode 0700, so whoever can connect may ask.

use super::conn::Conn;
use pepita_wire::frame::Outcome;
use pepita_wire::{ErrorKind, Request, StatusRecord, ToGuest, ToHost, WireError};
use rustix::event::PollFlags;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;

/// Clients at once. One too many is hung up on.
const CLIENTS: usize = 256;

/// The listening socket and its clients.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    clients: BTreeMap<u64, Client>,
    last: u64,
}

#[derive(Debug)]
struct Client {
    conn: Conn,
    /// Its long poll: the request's id, and the generation it knows.
    watch: Option<(u64, u64)>,
    /// The generation that its last long poll was answered with.
    told: Option<u64>,
}

impl Control {
    /// Listens already.
    ///
    /// # Errors
    /// When the socket cannot be made non-blocking.
    pub fn new(listener: UnixListener) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: BTreeMap::new(), last: 0 })
    }

    /// What to wait for: new clients, and each client under its number.
    pub fn interest(&self) -> impl Iterator<Item = (Option<u64>, BorrowedFd<'_>, PollFlags)> {
        let clients = self.clients.iter().map(|(n, c)| (Some(*n), c.conn.as_fd(), c.conn.interest()));
        std::iter::once((None, self.listener.as_fd(), PollFlags::IN)).chain(clients)
    }

    /// Takes in new clients.
    pub fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.clients.len() < CLIENTS && stream.set_nonblocking(true).is_ok() {
                self.last += 1;
                let conn = Conn::new(OwnedFd::from(stream));
                self.clients.insert(self.last, Client { conn, watch: None, told: None });
            }
        }
    }

    /// Takes in what a client asks.
    pub fn read(&mut self, number: u64) -> Vec<Request> {
        let Some(client) = self.clients.get_mut(&number) else { return Vec::new() };
        let mut over = client.conn.flush().is_err() || client.conn.read().is_err();
        let (mut requests, mut refusals) = (Vec::new(), Vec::new());
        while let Some(line) = client.conn.lines.next_line() {
            match line.map_err(|e| e.to_string()).and_then(|l| ToGuest::decode(l).map_err(|e| e.to_string()))
            {
                Ok(ToGuest::Request(request)) => requests.push(request),
                Ok(ToGuest::Hello(_)) => {}
                Err(why) => refusals.push(WireError::new(ErrorKind::BadRequest, why)),
            }
        }
        for refusal in refusals {
            over |= client.conn.send(&ToHost::Answer { id: 0, outcome: Err(refusal) }.encode()).is_err();
        }
        if over {
            self.clients.remove(&number);
        }
        requests
    }

    /// Answers a client, if it is still there.
    pub fn answer(&mut self, number: u64, id: u64, outcome: Outcome) {
        if let Some(client) = self.clients.get_mut(&number)
            && client.conn.send(&ToHost::Answer { id, outcome }.encode()).is_err()
        {
            self.clients.remove(&number);
        }
    }

    /// Answers, by [`Control::tell`], when the status is another than the one that the client knows.
    pub fn watch(&mut self, number: u64, id: u64, since: u64) {
        if let Some(client) = self.clients.get_mut(&number) {
            client.watch = Some((id, since));
        }
    }

    /// Tells watchers what they do not know yet. One that knows a later generation has it from a former monitor, whose
    /// last words never reached the disk.
    pub fn tell(&mut self, status: &StatusRecord) {
        let newer = |client: &Client| client.watch.is_some_and(|(_, since)| status.generation != since);
        let waiting: Vec<u64> = self.clients.iter().filter(|(_, c)| newer(c)).map(|(n, _)| *n).collect();
        if waiting.is_empty() {
            return;
        }
        let record = serde_json::to_value(status).expect("a record becomes JSON");
        for number in waiting {
            let Some(client) = self.clients.get_mut(&number) else { continue };
            if let Some((id, _)) = client.watch.take() {
                client.told = Some(status.generation);
                self.answer(number, id, Ok(record.clone()));
            }
        }
    }

    /// A client that watches has not heard of this generation: it is between two long polls.
    pub fn owes(&self, generation: u64) -> bool {
        self.clients.values().any(|client| client.told.is_some_and(|told| told < generation))
    }

    /// Nothing waits to be written to any client.
    pub fn is_flushed(&self) -> bool {
        self.clients.values().all(|client| client.conn.is_flushed())
    }
}
