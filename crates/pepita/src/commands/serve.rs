//! `pepita monitor DIR --serve`: the launch server of a supervisor. It is started once, and makes a monitor of a copy of itself
//! for each launch: the program is neither executed nor loaded again, and no process stands between the supervisor and
//! the monitor.
//!
//! Standard input is a socket. The supervisor sends one byte for each launch, with the end of another socket, on which the
//! monitor finds its order, answers, and is told that the supervisor has taken the VM ([`pepita_wire::serve`]). A copy
//! waits there ahead, so that a launch does not wait for the copying either.

use super::environment::environment_file;
use crate::boot::{self, Prepared};
use crate::error::{About, Result, call_error};
use crate::host::fork::{Side, forget_children, fork};
use crate::host::inherited;
use crate::ops::container::Held;
use crate::ops::launch::prepare;
use crate::rundir::RunDir;
use pepita_wire::record::CallErrorKind;
use pepita_wire::serve::GREETING;
use pepita_wire::{LaunchSpec, VmId};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::io::{IoSliceMut, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Serves until the supervisor closes its end of the socket. In a copy that has got an order, runs the monitor instead.
pub fn serve(run_dir: &Path) {
    inherited::give_up();
    forget_children();
    // A directory that the supervisor was started in can be unmounted. (There is always a root.)
    let _ = std::env::set_current_dir("/");
    let supervisor = rustix::stdio::stdin();
    if rustix::io::write(supervisor, GREETING).is_err() {
        return;
    }
    loop {
        let Ok((mut started, starts)) = std::io::pipe() else { return };
        match fork() {
            Ok(Side::Copy) => {
                drop(started);
                let Some(order) = await_order(starts) else { return };
                if take_as_standard_streams(order).is_ok() {
                    boot::serve(|spec| prepared(run_dir, spec));
                }
                return;
            }
            Ok(Side::Original) => {
                drop(starts);
                // Nothing was written: the copy has ended. It is replaced, unless the supervisor is gone.
                let has_started = started.read(&mut [0]).is_ok_and(|read| read == 1);
                if !has_started && is_alone() {
                    return;
                }
            }
            // The supervisor finds the end of this process, and calls the launcher as a program.
            Err(_) => return,
        }
    }
}

/// Waits in a copy for its order. Returns `None` when the supervisor or the original process is gone.
fn await_order(mut starts: PipeWriter) -> Option<OwnedFd> {
    let supervisor = rustix::stdio::stdin();
    loop {
        let mut fds =
            [PollFd::from_borrowed_fd(supervisor, PollFlags::IN), PollFd::new(&starts, PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) if !fds[1].revents().is_empty() => return None,
            Ok(_) => break,
            Err(Errno::INTR) => {}
            Err(_) => return None,
        }
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut came_along = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received =
        recvmsg(supervisor, &mut [IoSliceMut::new(&mut byte)], &mut came_along, RecvFlags::CMSG_CLOEXEC);
    let order = came_along.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    // The next copy waits from now on.
    if received.is_ok_and(|received| received.bytes > 0) {
        let _ = starts.write_all(&[0]);
    }
    order
}

/// Returns whether the supervisor has closed its end.
fn is_alone() -> bool {
    let mut fds = [PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::empty())];
    let limit = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&limit)).is_err() || !fds[0].revents().is_empty()
}

fn take_as_standard_streams(order: OwnedFd) -> rustix::io::Result<()> {
    rustix::stdio::dup2_stdin(&order)?;
    rustix::stdio::dup2_stdout(&order)
}

/// Completes a launch specification, as `pepita run --spec -` does.
fn prepared(run_dir: &Path, mut spec: LaunchSpec) -> Result<Prepared<Option<Held>>> {
    let name = spec.name.as_deref().unwrap_or_default();
    let name = VmId::new(name).map_err(|e| call_error(CallErrorKind::Usage, e.to_string()))?;
    let named = Some(run_dir).filter(|path| !path.as_os_str().is_empty());
    // A VM of this name that an earlier version has put elsewhere keeps the name.
    let run_dir = RunDir::choose(named)?.holding(&name);
    if let Some(path) = spec.env_file.take() {
        let of_file = environment_file(&path)?;
        spec.env = of_file.into_iter().chain(spec.env).collect();
    }
    prepare(&run_dir, &name, spec).about(name.as_str())
}
