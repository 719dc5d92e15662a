//! Runs a command whose streams a client holds, over pipes or at a terminal: carries input, output, signals and sizes
//! between the connection and the command, in one thread and with bounded memory.
//!
//! The command ends with its client, as with `systemd-run --pipe` and ssh(1): nobody supervises a command that has lost
//! its client, and it would go on using the memory of the daemon. (A command of `docker exec` is left running.) What the
//! command leaves behind ends with it, too.

use crate::agent::{Agent, Mode};
use crate::cgroup::Cgroup;
use crate::environment::Environment;
use crate::forerunner::{self, OWN_PROGRAM, Orders};
use crate::options::COPY;
use crate::process::{KILLED, handle_of, kill_group, kill_rest, not_executable, of_program, wait_for_end};
use crate::strays::{MARK, Mark};
use crate::stream::Stream;
use crate::terminal::Terminal;
use pepita_wire::Exit;
use pepita_wire::agent::{Copy, ExecStream};
use pepita_wire::streams::{CHUNK_CAP, Chunks, FromCommand, INPUT_WINDOW, OutputStream, ToCommand};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::process::Signal;
use std::collections::VecDeque;
use std::io::{self, ErrorKind as Io, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc;
use std::time::Duration;

/// The size of one read.
const READ: usize = 32 * 1024;

/// The bytes for the client from which on the command's output is not read: a client that does not read holds the
/// command back.
const UNSENT_CAP: usize = 2 * CHUNK_CAP;

/// The bytes of input that are taken by the command before the client is told that there is room for them again.
const ROOM_STEP: usize = INPUT_WINDOW / 8;

/// The bytes of each stream that are read after the end of the command: a pipe holds no more, and a process that could not
/// be found may go on writing.
const REST_CAP: usize = 1 << 20;

/// The time from SIGHUP to SIGKILL, for a command whose client has gone.
const GRACE: Duration = Duration::from_secs(5);

/// The byte that ends the input at a terminal (Ctrl-D).
const END_OF_INPUT: u8 = 4;

/// The value of TERM at a terminal, unless the daemon or the client sets one.
const TERM: &str = "xterm";

/// Runs a command and serves its client until the command has ended, or the client is gone. The rest of the connection is
/// chunks.
pub(crate) fn run(agent: &Agent, exec: &ExecStream, client: Stream) {
    serve(agent, client, || start(agent, exec));
}

/// Copies files for a client in the same way: the command is the agent's own program.
pub(crate) fn copy(agent: &Agent, copy: &Copy, client: Stream) {
    serve(agent, client, || start_copy(agent, copy));
}

fn serve(agent: &Agent, client: Stream, start: impl FnOnce() -> Result<Running, Exit>) {
    if client.set_nonblocking(true).is_err() {
        return;
    }
    let _awake = KeptAwake::by(agent);
    let mut client = Client { stream: client, chunks: Chunks::default(), unsent: Vec::new() };
    let exit = match start() {
        Ok(mut command) => match command.serve(agent, &mut client) {
            Some(exit) => exit,
            None => return command.hang_up(agent),
        },
        Err(exit) => exit,
    };
    FromCommand::Ended(exit).append_to(&mut client.unsent);
    client.finish();
}

/// A stream that keeps the VM awake as long as this value lives.
struct KeptAwake<'a>(&'a Agent);

impl<'a> KeptAwake<'a> {
    fn by(agent: &'a Agent) -> Self {
        agent.change(|state| state.streams_changed(true));
        Self(agent)
    }
}

impl Drop for KeptAwake<'_> {
    fn drop(&mut self) {
        self.0.change(|state| state.streams_changed(false));
    }
}

/// The connection of the client.
struct Client {
    stream: Stream,
    chunks: Chunks,
    unsent: Vec<u8>,
}

/// A command that runs, and its streams.
struct Running {
    pid: u32,
    handle: OwnedFd,
    end: mpsc::Receiver<Exit>,
    mark: Mark,
    streams: Streams,
}

/// The agent's ends of a command's streams. Each is non-blocking.
struct Streams {
    terminal: Option<Terminal>,
    input: Option<Input>,
    output: Option<OwnedFd>,
    error: Option<OwnedFd>,
}

/// The input of a command.
struct Input {
    fd: OwnedFd,
    is_terminal: bool,
    /// What the client has sent and the command has not taken; at most [`INPUT_WINDOW`].
    waiting: VecDeque<u8>,
    /// The bytes that were taken since the client was told of room.
    taken: usize,
    has_ended: bool,
}

/// Starts a command with its streams, in the surroundings of the daemon.
fn start(agent: &Agent, exec: &ExecStream) -> Result<Running, Exit> {
    let Some(program) = exec.command.first() else {
        return Err(not_executable("", &Errno::INVAL.into()));
    };
    let fail = |e: io::Error| not_executable(program, &e);
    let mut surroundings = agent.surroundings().map_err(|exit| of_program(exit, program))?;
    if let Some(user) = &exec.user {
        surroundings = surroundings.with_user(user).map_err(|exit| of_program(exit, program))?.into();
    }
    let mut orders = surroundings.orders(&exec.command);
    if let Some(dir) = &exec.dir {
        match std::fs::metadata(dir) {
            Ok(meta) if meta.is_dir() => orders.directory.clone_from(dir),
            Ok(_) => return Err(not_executable(&format!("directory {dir}"), &Errno::NOTDIR.into())),
            Err(e) => return Err(not_executable(&format!("directory {dir}"), &e)),
        }
    }
    let mark = Mark::new();
    let mut environment = environment(&surroundings.environment, exec);
    environment.insert(MARK.into(), mark.value().into());
    orders.cgroup = cgroup(agent);
    orders.has_terminal = exec.terminal.is_some();
    let streams = match exec.terminal {
        Some(size) => Terminal::open(size)
            .and_then(|(terminal, theirs)| Streams::at_terminal(terminal, theirs, exec.input)),
        None => Streams::over_pipes(exec.input),
    };
    let (streams, theirs) = streams.map_err(fail)?;
    let (pid, end) = forerunner::spawn(&agent.reaper, &orders, &environment, theirs)?;
    let handle = handle_of(pid).map_err(fail)?;
    Ok(Running { pid, handle, end, mark, streams })
}

/// Starts a copy: as root, with the capabilities of a container, whether or not the daemon runs.
fn start_copy(agent: &Agent, copy: &Copy) -> Result<Running, Exit> {
    let fail = |e: io::Error| not_executable(OWN_PROGRAM, &e);
    let order = serde_json::to_string(copy).map_err(|e| fail(e.into()))?;
    let is_guest = agent.mode == Mode::Init;
    let orders = Orders {
        argv: vec![OWN_PROGRAM.to_owned(), format!("--{COPY}"), order],
        is_guest,
        is_confined: is_guest,
        cgroup: cgroup(agent),
        ..Orders::default()
    };
    let mark = Mark::new();
    let environment = [(MARK.into(), mark.value().into())].into_iter().collect();
    let (streams, theirs) = Streams::over_pipes(matches!(copy, Copy::In { .. })).map_err(fail)?;
    let (pid, end) = forerunner::spawn(&agent.reaper, &orders, &environment, theirs)?;
    let handle = handle_of(pid).map_err(fail)?;
    Ok(Running { pid, handle, end, mark, streams })
}

/// Returns the cgroup of the commands of hosts.
fn cgroup(agent: &Agent) -> Option<String> {
    (agent.mode == Mode::Init).then(|| Cgroup::Commands.processes())
}

/// Returns the environment of a command: the daemon's, and what the client sets.
fn environment(of_daemon: &Environment, exec: &ExecStream) -> Environment {
    let mut environment = of_daemon.clone();
    if exec.terminal.is_some() {
        environment.entry("TERM".into()).or_insert_with(|| TERM.into());
    }
    environment.extend(exec.env.iter().map(|(name, value)| (name.into(), value.into())));
    environment
}

impl Streams {
    /// Returns the agent's ends of pipes, and those of the command.
    fn over_pipes(has_input: bool) -> io::Result<(Self, forerunner::Streams)> {
        let ((output, to_output), (error, to_error)) = (io::pipe()?, io::pipe()?);
        let (from_input, input) = if has_input {
            let (from_input, input) = io::pipe()?;
            (Some(OwnedFd::from(from_input)), Some(Input::new(input.into(), false)?))
        } else {
            (None, None)
        };
        let (output, error) = (OwnedFd::from(output), OwnedFd::from(error));
        ioctl_fionbio(&output, true)?;
        ioctl_fionbio(&error, true)?;
        let theirs =
            forerunner::Streams { input: from_input, output: to_output.into(), error: to_error.into() };
        Ok((Self { terminal: None, input, output: Some(output), error: Some(error) }, theirs))
    }

    /// Returns the agent's side of a terminal, and that of the command.
    fn at_terminal(
        terminal: Terminal,
        theirs: OwnedFd,
        has_input: bool,
    ) -> io::Result<(Self, forerunner::Streams)> {
        let output = terminal.as_fd().try_clone_to_owned()?;
        ioctl_fionbio(&output, true)?;
        let input = match has_input {
            true => Some(Input::new(terminal.as_fd().try_clone_to_owned()?, true)?),
            false => None,
        };
        let theirs = forerunner::Streams {
            input: Some(theirs.try_clone()?),
            output: theirs.try_clone()?,
            error: theirs,
        };
        Ok((Self { terminal: Some(terminal), input, output: Some(output), error: None }, theirs))
    }
}

impl Input {
    fn new(fd: OwnedFd, is_terminal: bool) -> io::Result<Self> {
        ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, is_terminal, waiting: VecDeque::new(), taken: 0, has_ended: false })
    }

    /// Gives the command what it takes. Returns whether its input is still open.
    fn write(&mut self) -> bool {
        while !self.waiting.is_empty() {
            match rustix::io::write(&self.fd, self.waiting.as_slices().0) {
                Ok(n) => {
                    self.waiting.drain(..n);
                    self.taken += n;
                }
                Err(Errno::AGAIN) => return true,
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
        !self.has_ended
    }
}

/// A descriptor that is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Client,
    Input,
    Output,
    Error,
    Command,
}

impl Running {
    /// Carries bytes in both directions until the command has ended and its output is handed on. Returns its end, or `None`
    /// when the client is gone, or sends what is no chunk.
    fn serve(&mut self, agent: &Agent, client: &mut Client) -> Option<Exit> {
        let (mut exit, mut rest) = (None, REST_CAP);
        loop {
            if exit.is_some() {
                // Nobody is left who writes, so what is there is all.
                while client.has_room() && rest > 0 && self.has_output() {
                    let before = client.unsent.len();
                    self.read(OutputStream::Output, client, true);
                    self.read(OutputStream::Error, client, true);
                    rest = rest.saturating_sub(client.unsent.len() - before);
                }
                if rest == 0 || !self.has_output() {
                    return exit;
                }
            }
            for source in self.wait(client, exit.is_some()) {
                match source {
                    Source::Client => {
                        client.flush().ok()?;
                        self.hear(client)?;
                    }
                    Source::Input => self.give_input(client),
                    Source::Output => self.read(OutputStream::Output, client, false),
                    Source::Error => self.read(OutputStream::Error, client, false),
                    Source::Command => exit = Some(self.end(agent)),
                }
            }
            client.flush().ok()?;
        }
    }

    /// Waits until something can be done, and returns what.
    fn wait(&self, client: &Client, has_ended: bool) -> Vec<Source> {
        let of_client = match client.unsent.is_empty() {
            true => PollFlags::IN,
            false => PollFlags::IN | PollFlags::OUT,
        };
        let mut all: Vec<(Source, BorrowedFd<'_>, PollFlags)> =
            vec![(Source::Client, client.stream.as_fd(), of_client)];
        if !has_ended {
            all.push((Source::Command, self.handle.as_fd(), PollFlags::IN));
            let input = self.streams.input.as_ref().filter(|input| !input.waiting.is_empty());
            all.extend(input.map(|input| (Source::Input, input.fd.as_fd(), PollFlags::OUT)));
            if client.has_room() {
                let Streams { output, error, .. } = &self.streams;
                all.extend(output.as_ref().map(|fd| (Source::Output, fd.as_fd(), PollFlags::IN)));
                all.extend(error.as_ref().map(|fd| (Source::Error, fd.as_fd(), PollFlags::IN)));
            }
        }
        let mut fds: Vec<PollFd<'_>> =
            all.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        // An interrupted wait counts as one in which nothing became ready.
        let _ = poll(&mut fds, None::<&Timespec>);
        let ready = fds.iter().zip(&all).filter(|(fd, _)| !fd.revents().is_empty());
        ready.map(|(_, (source, ..))| *source).collect()
    }

    /// Does what the client says. Returns `None` when it is gone, or says what is no chunk.
    fn hear(&mut self, client: &mut Client) -> Option<()> {
        let mut buffer = [0; READ];
        match client.stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(n) => client.chunks.push(&buffer[..n]),
            Err(e) if matches!(e.kind(), Io::WouldBlock | Io::Interrupted) => return Some(()),
            Err(_) => return None,
        }
        while let Some(chunk) = client.chunks.next_to_command().ok()? {
            match chunk {
                ToCommand::Input(bytes) => {
                    // Input for a command that has closed it is dropped.
                    if let Some(input) = &mut self.streams.input {
                        if input.waiting.len() + bytes.len() > INPUT_WINDOW {
                            return None;
                        }
                        input.waiting.extend(bytes);
                    }
                }
                ToCommand::InputEnd => {
                    if let Some(input) = &mut self.streams.input {
                        // A terminal goes on after Ctrl-D.
                        match input.is_terminal {
                            true => input.waiting.push_back(END_OF_INPUT),
                            false => input.has_ended = true,
                        }
                    }
                }
                ToCommand::Resize(size) => {
                    if let Some(terminal) = &self.streams.terminal {
                        // A terminal that is gone has no size.
                        let _ = terminal.resize(size);
                    }
                }
                ToCommand::Signal(signal) => {
                    if let Some(named) = Signal::from_named_raw(signal.number()) {
                        kill_group(self.pid, named);
                    }
                }
                // At a terminal there is one stream, whose end would be the end of the terminal.
                ToCommand::Close(_) if self.streams.terminal.is_some() => {}
                ToCommand::Close(OutputStream::Output) => self.streams.output = None,
                ToCommand::Close(OutputStream::Error) => self.streams.error = None,
            }
        }
        self.give_input(client);
        Some(())
    }

    fn give_input(&mut self, client: &mut Client) {
        let Some(input) = &mut self.streams.input else { return };
        let is_open = input.write();
        if is_open && input.taken >= ROOM_STEP {
            let more = u32::try_from(std::mem::take(&mut input.taken)).unwrap_or(u32::MAX);
            FromCommand::Room(more).append_to(&mut client.unsent);
        }
        if !is_open {
            self.streams.input = None;
        }
    }

    /// Reads an output once. A stream that has ended is closed; with `is_last`, also a stream in which nothing is.
    fn read(&mut self, stream: OutputStream, client: &mut Client, is_last: bool) {
        let fd = match stream {
            OutputStream::Output => &mut self.streams.output,
            OutputStream::Error => &mut self.streams.error,
        };
        let mut buffer = [0; READ];
        match fd.as_ref().map(|fd| rustix::io::read(fd, &mut buffer)) {
            // A terminal whose other side is closed gives EIO.
            None | Some(Ok(0)) => *fd = None,
            Some(Ok(n)) => FromCommand::Output(stream, &buffer[..n]).append_to(&mut client.unsent),
            Some(Err(Errno::INTR)) => {}
            Some(Err(Errno::AGAIN)) if !is_last => {}
            Some(Err(_)) => *fd = None,
        }
    }

    fn has_output(&self) -> bool {
        self.streams.output.is_some() || self.streams.error.is_some()
    }

    /// Returns the end of the command, after what it has left behind is ended.
    fn end(&mut self, agent: &Agent) -> Exit {
        kill_rest(self.pid);
        let exit = self.end.recv_timeout(KILLED).unwrap_or(Exit::signal(9));
        self.mark.end_strays(&agent.reaper);
        exit
    }

    /// Ends the command of a client that has gone: SIGHUP, and SIGKILL after a grace.
    fn hang_up(mut self, agent: &Agent) {
        // The end of a terminal is a SIGHUP by itself, and a pipe without a reader a SIGPIPE.
        self.streams = Streams { terminal: None, input: None, output: None, error: None };
        kill_group(self.pid, Signal::HUP);
        if !wait_for_end(&self.handle, Some(GRACE)) {
            kill_group(self.pid, Signal::KILL);
            wait_for_end(&self.handle, Some(KILLED));
        }
        self.end(agent);
    }
}

impl Client {
    fn has_room(&self) -> bool {
        self.unsent.len() < UNSENT_CAP
    }

    /// Writes as much as the connection takes.
    fn flush(&mut self) -> io::Result<()> {
        let mut written = 0;
        while written < self.unsent.len() {
            match self.stream.write(&self.unsent[written..]) {
                Ok(0) => return Err(Io::WriteZero.into()),
                Ok(n) => written += n,
                Err(e) if e.kind() == Io::WouldBlock => break,
                Err(e) if e.kind() == Io::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.unsent.drain(..written);
        Ok(())
    }

    /// Writes the rest, and waits until the client has read it or is gone.
    fn finish(&mut self) {
        while self.flush().is_ok() && !self.unsent.is_empty() {
            let mut fds = [PollFd::new(&self.stream, PollFlags::OUT)];
            let _ = poll(&mut fds, None::<&Timespec>);
        }
        // The client hangs up when it has read the end. What it has sent meanwhile is dropped: unread bytes would turn the
        // end of the connection into a reset, and the last chunks would be lost.
        let mut buffer = [0; 4096];
        loop {
            let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
            let limit = Timespec::try_from(GRACE).ok();
            if !poll(&mut fds, limit.as_ref()).is_ok_and(|ready| ready > 0) {
                return;
            }
            match self.stream.read(&mut buffer) {
                Err(e) if matches!(e.kind(), Io::WouldBlock | Io::Interrupted) => {}
                Ok(n) if n > 0 => {}
                Ok(_) | Err(_) => return,
            }
        }
    }
}
