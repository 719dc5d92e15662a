//! The listening sockets of published ports. A socket belongs to the supervisor, as a CID does: it outlives the
//! incarnations of its VM, so that a client that comes while the VM restarts waits in the kernel's queue. The monitor of
//! each incarnation gets a copy, takes the clients and carries their bytes; it keeps the socket when the supervisor ends,
//! and the next supervisor takes a copy back. A service manager may keep copies, too: it gives them to the next supervisor even
//! when no monitor runs.

mod first_client;
mod given;
mod handover;

pub use given::{GivenSockets, SocketStore};

use crate::spec::VmName;
pub use first_client::PortNews;
pub(crate) use first_client::TellPortNews;
use first_client::Waiting;
use pepita_ports::{Listening, NotListening, waiting};
use pepita_wire::Publish;
use pepita_wire::port::HostPlace;
use pepita_wire::rundir::REACH;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The listening sockets of one supervisor. All clones are one; it outlives the actors that use it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ports(Arc<Mutex<All>>);

#[derive(Debug, Default)]
struct All {
    /// The waits for clients of VMs that are asleep. A wait is dropped before a socket of its VM is closed.
    waits: BTreeMap<VmName, Waiting>,
    vms: BTreeMap<VmName, Sockets>,
    given: GivenSockets,
}

/// The pause before a port that another program holds is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The sockets of one VM.
type Sockets = Vec<(Publish, Listening)>;

impl All {
    fn open(&mut self, vm: &VmName, wanted: &[Publish]) -> Result<(), NotListening> {
        let Self { vms, given, .. } = self;
        let sockets = vms.entry(vm.clone()).or_default();
        for (_, socket) in sockets.extract_if(.., |(publish, _)| !wanted.contains(publish)) {
            given.close(socket);
        }
        let mut result = Ok(());
        for publish in wanted {
            if sockets.iter().any(|(open, _)| open == publish) {
                continue;
            }
            make_directory(&publish.host);
            let opened = given.take(&publish.host).map_or_else(|| Listening::at(&publish.host), Ok);
            match opened {
                Ok(listening) => {
                    given.in_use(&listening);
                    sockets.push((publish.clone(), listening));
                }
                Err(e) => result = result.and(Err(e)),
            }
        }
        if sockets.is_empty() {
            vms.remove(vm);
        }
        result
    }
}

impl All {
    fn await_client(&mut self, vm: &VmName, wanted: &[Publish], tell: &TellPortNews) -> Result<(), String> {
        self.open(vm, wanted).map_err(|e| e.to_string())?;
        let sockets = self.vms.get(vm).map_or(&[][..], Vec::as_slice);
        let wait = Waiting::for_client(sockets, tell.clone()).map_err(|e| format!("its ports: {e}"))?;
        self.waits.insert(vm.clone(), wait);
        Ok(())
    }
}

impl Ports {
    /// Returns the sockets of a supervisor that was given some at its start. None is in use yet.
    pub(crate) fn with(given: GivenSockets) -> Self {
        Self(Arc::new(Mutex::new(All { given, ..All::default() })))
    }

    /// Closes what a former run has stored of ports that no VM has any more.
    pub(crate) fn close_all_but<'p>(&self, wanted: impl Iterator<Item = &'p Publish>) {
        let wanted: BTreeSet<&HostPlace> = wanted.map(|publish| &publish.host).collect();
        self.all().given.close_all_but(|place| wanted.contains(place));
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Listens on the ports of a VM. A socket that is open stays open, with the clients that wait at it; one that is not
    /// wanted any more is closed.
    ///
    /// # Errors
    /// Returns the first port that cannot be listened on, with the program that holds it. The others are open then.
    pub(crate) fn open(&self, vm: &VmName, wanted: &[Publish]) -> Result<(), NotListening> {
        let mut all = self.all();
        all.waits.remove(vm);
        all.open(vm, wanted)
    }

    /// Listens on the ports of a VM that is asleep, and tells once that a client waits at one of them, unless the ports are
    /// opened for another reason or closed before. A port that cannot be listened on is told once, and tried again.
    pub(crate) fn await_client(&self, vm: VmName, wanted: Vec<Publish>, tell: TellPortNews) {
        let mut all = self.all();
        all.waits.remove(&vm);
        let Err(why) = all.await_client(&vm, &wanted, &tell) else { return };
        tell.tell(PortNews::NotListening(why));
        let (ports, name) = (self.clone(), vm.clone());
        // No event tells that a port is free.
        let again = tokio::spawn(async move {
            loop {
                tokio::time::sleep(RETRY).await;
                let mut all = ports.all();
                let is_over = !all.waits.get(&vm).is_some_and(Waiting::is_own);
                if is_over || all.await_client(&vm, &wanted, &tell).is_ok() {
                    return;
                }
            }
        });
        all.waits.insert(name, Waiting::to_listen(again));
    }

    /// Closes the ports of a VM that is down for good: their clients are refused from now on.
    pub(crate) fn close(&self, vm: &VmName) {
        let All { waits, vms, given } = &mut *self.all();
        waits.remove(vm);
        for (_, socket) in vms.remove(vm).unwrap_or_default() {
            given.close(socket);
        }
    }

    /// Gives all sockets up, and leaves them to the monitors and to the service manager that have copies.
    pub(crate) fn leave(&self) {
        let mut all = self.all();
        all.waits.clear();
        all.vms.clear();
    }

    /// Publishes the ports of a VM that runs, by its monitor behind this control socket. Sockets that the monitor has of a
    /// former supervisor are taken back first.
    ///
    /// # Errors
    /// Returns a sentence about the port that is in use, or about the monitor. The other ports are published.
    pub(crate) async fn publish(
        &self,
        vm: &VmName,
        wanted: &[Publish],
        control: &Path,
    ) -> Result<(), String> {
        if self.lacks(vm, wanted) {
            let had = handover::take_back(control).await.map_err(|e| format!("its ports: {e}"))?;
            self.enter(vm, had, wanted);
        }
        let opened = self.open(vm, wanted);
        let copies = self.copies(vm).map_err(|e| format!("its ports: {e}"))?;
        handover::hand_over(control, copies)
            .await
            .map_err(|e| format!("its ports are not published: {e}"))?;
        opened.map_err(|e| e.to_string())
    }

    /// Returns whether a port of a VM is not open.
    fn lacks(&self, vm: &VmName, wanted: &[Publish]) -> bool {
        let all = self.all();
        let sockets = all.vms.get(vm).map_or(&[][..], Vec::as_slice);
        wanted.iter().any(|publish| !sockets.iter().any(|(open, _)| open == publish))
    }

    /// Enters the sockets that a monitor had, as far as they are wanted and no others are open.
    fn enter(&self, vm: &VmName, had: Vec<(Publish, OwnedFd)>, wanted: &[Publish]) {
        let All { vms, given, .. } = &mut *self.all();
        let sockets = vms.entry(vm.clone()).or_default();
        for (publish, socket) in had {
            if wanted.contains(&publish) && !sockets.iter().any(|(open, _)| *open == publish) {
                let listening = Listening { place: publish.host.clone(), socket };
                given.in_use(&listening);
                sockets.push((publish, listening));
            }
        }
    }

    /// Returns the ports of a VM that are open, each with the number of clients that wait at it, where the kernel tells it.
    pub(crate) fn waiting(&self, vm: &VmName) -> Vec<(String, Option<u32>)> {
        let all = self.all();
        let sockets = all.vms.get(vm).map_or(&[][..], Vec::as_slice);
        sockets.iter().map(|(publish, it)| (publish.to_string(), waiting(it.socket.as_fd()))).collect()
    }

    fn copies(&self, vm: &VmName) -> io::Result<Vec<(Publish, OwnedFd)>> {
        let all = self.all();
        let sockets = all.vms.get(vm).map_or(&[][..], Vec::as_slice);
        sockets.iter().map(|(publish, it)| Ok((publish.clone(), it.socket.try_clone()?))).collect()
    }
}

/// Makes the directory of the sockets at which VMs reach each other. Those of other sockets are the user's. Without the
/// directory the socket cannot be made, which is told then.
fn make_directory(place: &HostPlace) {
    let HostPlace::Unix(path) = place else { return };
    if let Some(dir) = Path::new(path).parent().filter(|dir| dir.ends_with(REACH)) {
        let _ = DirBuilder::new().mode(0o700).create(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port()
    }

    #[test]
    fn a_port_stays_open_until_its_vm_is_down_for_good() {
        let (ports, vm) = (Ports::default(), VmName::new("api").expect("a good name"));
        let (first, second) = (free_port(), free_port());
        let publish = |port: u16| format!("127.0.0.1:{port}:80").parse::<Publish>().expect("a port");
        let connect = |port: u16| TcpStream::connect(("127.0.0.1", port));
        ports.open(&vm, &[publish(first)]).expect("free");
        let waiting = connect(first).expect("waits");
        // The next launch, with one more port.
        ports.open(&vm, &[publish(first), publish(second)]).expect("free");
        waiting.set_nonblocking(true).expect("a socket");
        let ended = waiting.peek(&mut [0]).expect_err("still waits, so nothing has come and it is not reset");
        assert_eq!(ended.kind(), io::ErrorKind::WouldBlock);
        let other = VmName::new("other").expect("a good name");
        let taken = ports.open(&other, &[publish(second)]).expect_err("taken").to_string();
        assert!(taken.contains(&format!("port 127.0.0.1:{second} is in use by")), "{taken}");
        ports.open(&vm, &[publish(second)]).expect("open");
        connect(first).expect_err("not wanted any more");
        connect(second).expect("waits");
        ports.close(&vm);
        connect(second).expect_err("down for good");
    }
}
