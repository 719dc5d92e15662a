//! The services that every VM actor uses: the long-lived actors beside the groups, and the way to monitors and guests.

use crate::actor::Service;
use crate::cid::CidMsg;
use crate::executor::ExecutorMsg;
use crate::link::dial::{Address, Dialled, Guests, dial_with_token};
use crate::monitor_client::{self, Monitors, TellReport, Watch};
use crate::ports::Ports;
use futures_core::future::BoxFuture;
use pepita_wire::{MonitorRequest, Outcome};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The way to monitors and guests.
pub trait Sockets: Monitors + Guests {}

impl<T: Monitors + Guests> Sockets for T {}

/// The sockets of this host.
#[derive(Debug, Clone, Copy)]
pub struct HostSockets;

impl Monitors for HostSockets {
    fn watch(&self, socket: PathBuf, tell: TellReport) -> Watch {
        monitor_client::watch(socket, tell)
    }

    fn request(&self, socket: PathBuf, request: MonitorRequest) -> BoxFuture<'static, Outcome> {
        Box::pin(monitor_client::request(socket, request))
    }
}

impl Guests for HostSockets {
    fn dial(&self, guest: Address, token: PathBuf) -> BoxFuture<'static, io::Result<Dialled>> {
        Box::pin(dial_with_token(guest, token))
    }
}

/// The services that every VM actor uses.
#[derive(Debug, Clone)]
pub struct Services {
    /// The executor, which runs the launcher.
    pub executor: Service<ExecutorMsg>,
    /// The allocator, which leases CIDs.
    pub cids: Service<CidMsg>,
    /// The sockets, which open connections to monitors and guests.
    pub sockets: Arc<dyn Sockets>,
    /// The listening sockets of published ports.
    pub(crate) ports: Ports,
    /// The mark of the supervisor on its VMs.
    pub owner: Arc<str>,
    /// The moment from which the beats are counted.
    pub began: Instant,
}

/// The time between two beats.
const BEAT: Duration = Duration::from_millis(100);

impl Services {
    /// Returns the first beat that is not before `at`. What VMs may do at any moment near another is done at a beat: it wakes
    /// the supervisor once for several VMs.
    pub(super) fn next_beat(&self, at: Instant) -> Instant {
        let since = at.saturating_duration_since(self.began).as_nanos();
        let beats = u32::try_from(since.div_ceil(BEAT.as_nanos()));
        beats.map_or(at, |beats| self.began + BEAT * beats)
    }
}
