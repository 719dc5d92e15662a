//! The long-lived actors that VM actors use, by a handle that stays good when the root has to replace one of them.

use crate::cid::CidMsg;
use crate::executor::ExecutorMsg;
use crate::link::Sockets;
use ractor::{ActorRef, Message};
use std::sync::{Arc, PoisonError, RwLock};

/// A handle to an actor that the root keeps alive.
#[derive(Debug)]
pub struct Service<M>(Arc<RwLock<ActorRef<M>>>);

impl<M> Clone for Service<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Message> Service<M> {
    /// A handle to this actor.
    pub fn new(actor: ActorRef<M>) -> Self {
        Self(Arc::new(RwLock::new(actor)))
    }

    /// Sends a message. If the actor has just failed the message is dropped, and with it its reply, which tells the
    /// asker; so nobody waits in vain.
    pub fn send(&self, msg: M) {
        let actor = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let _ = actor.cast(msg);
    }

    /// The actor has been replaced. For the root only.
    pub fn replace(&self, actor: ActorRef<M>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = actor;
    }

    /// The actor at the moment.
    pub fn current(&self) -> ActorRef<M> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What every VM actor uses.
#[derive(Debug, Clone)]
pub struct Services {
    /// Runs the launcher.
    pub executor: Service<ExecutorMsg>,
    /// Leases CIDs.
    pub cids: Service<CidMsg>,
    /// To monitors and guests.
    pub sockets: Arc<dyn Sockets>,
    /// The supervisor's mark on its VMs.
    pub owner: Arc<str>,
}
