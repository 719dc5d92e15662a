//! The long-lived actors that VM actors use.

use crate::actor::Service;
use crate::cid::CidMsg;
use crate::executor::ExecutorMsg;
use crate::link::Sockets;
use std::sync::Arc;

/// What every VM actor uses.
#[derive(Debug, Clone)]
pub struct Services {
    /// Runs the launcher.
    pub executor: Service<ExecutorMsg>,
    /// Leases CIDs.
    pub cids: Service<CidMsg>,
    /// Opens connections to monitors and guests.
    pub sockets: Arc<dyn Sockets>,
    /// The mark of the supervisor on its VMs.
    pub owner: Arc<str>,
}
