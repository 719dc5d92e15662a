//! Reads the reports of the daemon about itself from the socket that `NOTIFY_SOCKET` names (sd_notify(3)).
//!
//! A report is read and applied under one lock, so that [`drain`] leaves none behind: what the daemon has said before its
//! end is known when its end is judged.

mod datagram;

pub(crate) use datagram::Datagram;

use crate::agent::{Agent, Mode};
use pepita_wire::protocol::HEALTH_INTERVAL;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

/// The maximum number of datagrams that are read in one [`HEALTH_INTERVAL`].
const DATAGRAMS: u32 = 2000;

/// Listens on the agent's notify socket, in a thread of its own, which calls `hear` when there is something to read.
/// `hear` returns the number of reports that it has read.
///
/// # Errors
/// When the socket cannot be bound.
pub(crate) fn listen(agent: Arc<Agent>, hear: fn(&Arc<Agent>) -> u32) -> io::Result<()> {
    let socket = UnixDatagram::bind(&agent.notify_path)?;
    socket.set_nonblocking(true)?;
    if agent.mode == Mode::Init {
        // A daemon that has dropped its privileges may report, too. (For a plain process the run directory is closed to
        // other users.)
        std::fs::set_permissions(&agent.notify_path, Permissions::from_mode(0o666))?;
    }
    *lock(&agent) = Some(socket.try_clone()?);
    std::thread::spawn(move || {
        let (mut window, mut read, mut due) = (Instant::now(), 0, None);
        loop {
            // With something left to report, the wait for the next datagram is limited.
            let left = due.map(|due: Instant| due.saturating_duration_since(Instant::now()));
            let limit = left.and_then(|left| Timespec::try_from(left).ok());
            // An interrupted wait finds nothing to read.
            let _ = poll(&mut [PollFd::new(&socket, PollFlags::IN)], limit.as_ref());
            read += hear(&agent);
            due = report_due(&agent);
            let passed = window.elapsed();
            if passed >= HEALTH_INTERVAL {
                (window, read) = (Instant::now(), 0);
            } else if read >= DATAGRAMS {
                // A daemon that floods its socket waits, and does not use up the agent's CPU time.
                std::thread::sleep(HEALTH_INTERVAL - passed);
            }
        }
    });
    Ok(())
}

/// Reads the reports that have come, and applies each. Returns their number.
pub(crate) fn drain(agent: &Agent, mut apply: impl FnMut(Datagram)) -> u32 {
    let socket = lock(agent);
    let (mut buffer, mut read) = ([0; 4096], 0);
    while let Some(Ok(n)) =
        socket.as_ref().filter(|_| read < DATAGRAMS).map(|socket| socket.recv(&mut buffer))
    {
        apply(Datagram::parse(&buffer[..n]));
        read += 1;
    }
    read
}

fn lock(agent: &Agent) -> MutexGuard<'_, Option<UnixDatagram>> {
    agent.notify_socket.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reports what the daemon has said, when that is due. Returns the time of the next report, if something is left.
fn report_due(agent: &Agent) -> Option<Instant> {
    let mut state = agent.lock();
    if state.report_health(Instant::now()) {
        drop(state);
        agent.wake();
        return None;
    }
    state.health_due()
}
