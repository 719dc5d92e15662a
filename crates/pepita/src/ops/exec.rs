//! Carries the streams of a command in a guest: between the connection to the guest agent on one side, and this program's
//! standard streams, signals and terminal on the other. One thread, and bounded memory whatever the guest sends.

use crate::host::signals::EndSignals;
use crate::host::terminal::size_of;
use pepita_wire::streams::{CHUNK_CAP, Chunks, FromCommand, INPUT_WINDOW, OutputStream, ToCommand};
use pepita_wire::{Exit, Signal};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The size of one read of the connection and of the input.
const READ: usize = 32 * 1024;

/// The bytes that a pipe takes without waiting once it is writable (PIPE_BUF of pipe(7)). More could hold this program up
/// at a reader that does not read, and it would hear no signal.
const AT_ONCE: usize = 4096;

/// The signals that are passed on to the command. Ctrl-\ is not: it ends this program, and the command with it, also when
/// the command ignores everything else.
const PASSED_ON: [i32; 3] = [HANGUP, 2, 15];

/// The number of SIGHUP.
const HANGUP: i32 = 1;

/// The number of SIGQUIT.
const QUIT: i32 = 3;

/// The number of SIGWINCH.
const RESIZED: i32 = 28;

/// How the streams of a command have ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// The command has ended.
    Ended(Exit),
    /// This program was told to leave, by a signal of this number.
    Left(i32),
    /// The connection has ended before the command: the VM has, or its agent.
    Lost,
}

/// Where the input comes from and the output goes.
#[derive(Debug)]
pub(crate) struct Ends<'a> {
    /// The input for the command; `None` when it has none.
    pub(crate) input: Option<BorrowedFd<'a>>,
    /// The standard output of the command.
    pub(crate) output: BorrowedFd<'a>,
    /// The standard error of the command.
    pub(crate) error: BorrowedFd<'a>,
    /// Signals to this program.
    pub(crate) signals: &'a EndSignals,
    /// The terminal whose size the command's terminal has.
    pub(crate) terminal: Option<BorrowedFd<'a>>,
}

/// Carries the streams until the command has ended and all of its output is written.
///
/// # Errors
/// When the output cannot be written, or the guest does not speak the protocol.
pub(crate) fn carry(agent: &OwnedFd, ends: &Ends<'_>) -> io::Result<End> {
    rustix::io::ioctl_fionbio(agent, true)?;
    let mut streams = Streams {
        agent,
        input: ends.input,
        room: INPUT_WINDOW,
        chunks: Chunks::default(),
        unsent: Vec::new(),
        output: Out::new(ends.output),
        error: Out::new(ends.error),
        ended: None,
        is_open: true,
    };
    loop {
        streams.hear()?;
        if streams.is_written() {
            match (streams.ended.take(), streams.is_open) {
                (Some(exit), _) => return Ok(End::Ended(exit)),
                (None, false) => return Ok(End::Lost),
                (None, true) => {}
            }
        }
        let ready = streams.wait(ends.signals);
        if ready.signals {
            while let Some(signal) = ends.signals.next() {
                match i32::try_from(signal).unwrap_or(QUIT) {
                    RESIZED => {
                        if let Some(size) = ends.terminal.and_then(size_of) {
                            ToCommand::Resize(size).append_to(&mut streams.unsent);
                        }
                    }
                    // The terminal is gone, and with it whoever used the command.
                    HANGUP if ends.terminal.is_some() => return Ok(End::Left(HANGUP)),
                    number => match Signal::new(number).filter(|_| PASSED_ON.contains(&number)) {
                        Some(signal) => ToCommand::Signal(signal).append_to(&mut streams.unsent),
                        None => return Ok(End::Left(number)),
                    },
                }
            }
        }
        if ready.input {
            streams.take_input();
        }
        if ready.output {
            streams.write(OutputStream::Output)?;
        }
        if ready.error {
            streams.write(OutputStream::Error)?;
        }
        if ready.agent || !streams.unsent.is_empty() {
            streams.exchange();
        }
    }
}

/// What is ready after a wait.
#[derive(Debug, Default)]
struct Ready {
    agent: bool,
    input: bool,
    output: bool,
    error: bool,
    signals: bool,
}

/// A descriptor to wait for, the events to wait for, and what is ready then.
type Interest<'a> = (BorrowedFd<'a>, PollFlags, fn(&mut Ready));

struct Streams<'a> {
    agent: &'a OwnedFd,
    /// `None` when the input has ended, or there is none.
    input: Option<BorrowedFd<'a>>,
    /// The bytes of input that the agent has room for.
    room: usize,
    chunks: Chunks,
    unsent: Vec<u8>,
    output: Out<'a>,
    error: Out<'a>,
    ended: Option<Exit>,
    /// Whether more may come from the agent.
    is_open: bool,
}

/// A stream of output, and what is to be written to it: one chunk at most.
struct Out<'a> {
    fd: BorrowedFd<'a>,
    waiting: Vec<u8>,
    /// The bytes that are written at once.
    step: usize,
    /// Whether its reader is gone: what comes for it is dropped.
    is_gone: bool,
}

impl<'a> Out<'a> {
    fn new(fd: BorrowedFd<'a>) -> Self {
        let is_file =
            fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
        let step = if is_file { CHUNK_CAP } else { AT_ONCE };
        Self { fd, waiting: Vec::new(), step, is_gone: false }
    }

    /// Writes while the reader takes it. Returns whether the reader has gone just now.
    fn write(&mut self) -> io::Result<bool> {
        let mut written = 0;
        let mut result = Ok(false);
        while written < self.waiting.len() {
            let rest = &self.waiting[written..];
            match rustix::io::write(self.fd, &rest[..rest.len().min(self.step)]) {
                Ok(n) => written += n,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // A pipe without a reader, and a terminal that is closed.
                Err(Errno::PIPE | Errno::IO) => {
                    self.is_gone = true;
                    written = self.waiting.len();
                    result = Ok(true);
                }
                Err(e) => return Err(e.into()),
            }
            if !is_writable(self.fd) {
                break;
            }
        }
        self.waiting.drain(..written);
        result
    }
}

fn is_writable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

impl Streams<'_> {
    /// Waits until something can be done.
    fn wait(&self, signals: &EndSignals) -> Ready {
        let mut all: Vec<Interest<'_>> = Vec::with_capacity(5);
        all.push((signals.as_fd(), PollFlags::IN, |ready| ready.signals = true));
        if self.room > 0
            && self.unsent.len() < CHUNK_CAP
            && let Some(input) = self.input
        {
            all.push((input, PollFlags::IN, |ready| ready.input = true));
        }
        if !self.output.waiting.is_empty() {
            all.push((self.output.fd, PollFlags::OUT, |ready| ready.output = true));
        }
        if !self.error.waiting.is_empty() {
            all.push((self.error.fd, PollFlags::OUT, |ready| ready.error = true));
        }
        let mut of_agent = PollFlags::empty();
        // What was read is handed on first, so that the guest is held back by whoever reads its output.
        of_agent.set(PollFlags::IN, self.is_open && self.is_written());
        of_agent.set(PollFlags::OUT, !self.unsent.is_empty());
        // A descriptor that nothing is wanted of would report the end of its other side again and again.
        if !of_agent.is_empty() {
            all.push((self.agent.as_fd(), of_agent, |ready| ready.agent = true));
        }
        let mut fds: Vec<PollFd<'_>> =
            all.iter().map(|(fd, flags, _)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        // An interrupted wait counts as one in which nothing became ready.
        let _ = poll(&mut fds, None::<&Timespec>);
        let mut ready = Ready::default();
        for (fd, (_, _, mark)) in fds.iter().zip(&all) {
            if !fd.revents().is_empty() {
                mark(&mut ready);
            }
        }
        ready
    }

    /// Reads a part of the input, for which the agent has room.
    fn take_input(&mut self) {
        let Some(input) = self.input else { return };
        let mut buffer = [0; READ];
        let limit = self.room.min(READ);
        match rustix::io::read(input, &mut buffer[..limit]) {
            Ok(n) if n > 0 => {
                ToCommand::Input(&buffer[..n]).append_to(&mut self.unsent);
                self.room -= n;
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal that is closed, and an input that is no open descriptor.
            Ok(_) | Err(_) => {
                self.input = None;
                ToCommand::InputEnd.append_to(&mut self.unsent);
            }
        }
    }

    /// Sends what is to be sent, and reads what has come.
    fn exchange(&mut self) {
        let mut written = 0;
        while written < self.unsent.len() {
            match rustix::io::write(self.agent, &self.unsent[written..]) {
                Ok(n) => written += n,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                // The end of the command may have come before.
                Err(_) => {
                    self.input = None;
                    written = self.unsent.len();
                }
            }
        }
        self.unsent.drain(..written);
        if !self.is_open || !self.is_written() {
            return;
        }
        let mut buffer = [0; READ];
        match rustix::io::read(self.agent, &mut buffer) {
            Ok(n) if n > 0 => self.chunks.push(&buffer[..n]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(_) | Err(_) => self.is_open = false,
        }
    }

    /// Takes the chunks that have come, until one waits for its reader.
    fn hear(&mut self) -> io::Result<()> {
        while self.is_written() && self.ended.is_none() {
            match self.chunks.next_from_command().map_err(io::Error::other)? {
                None => return Ok(()),
                Some(FromCommand::Room(more)) => {
                    let more = usize::try_from(more).unwrap_or(INPUT_WINDOW);
                    self.room = self.room.saturating_add(more).min(INPUT_WINDOW);
                }
                Some(FromCommand::Ended(exit)) => self.ended = Some(exit),
                Some(FromCommand::Output(stream, bytes)) => {
                    let out = match stream {
                        OutputStream::Output => &mut self.output,
                        OutputStream::Error => &mut self.error,
                    };
                    if !out.is_gone {
                        out.waiting.extend_from_slice(bytes);
                    }
                    if is_writable(out.fd) {
                        self.write(stream)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Writes what waits for a stream. When its reader has gone, the command gets SIGPIPE at its next write.
    fn write(&mut self, stream: OutputStream) -> io::Result<()> {
        let out = match stream {
            OutputStream::Output => &mut self.output,
            OutputStream::Error => &mut self.error,
        };
        if out.write()? {
            ToCommand::Close(stream).append_to(&mut self.unsent);
        }
        Ok(())
    }

    fn is_written(&self) -> bool {
        self.output.waiting.is_empty() && self.error.waiting.is_empty()
    }
}
