//! The CID allocator actor: one for a tree, so that leases outlive the VM actors that use them. Its book outlives the
//! actor itself: a lease is given before anybody else could write it down.

mod pool;

pub use pool::{LeaseError, Pool};

use crate::reply::Reply;
use crate::spec::{Cid, VmName};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The book of leases. Clones are the same one: should the allocator fail, its successor goes on with it. No entry is
/// ever half made, so that nothing has to be mistrusted in it.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Mutex<Pool>>);

impl Ledger {
    /// A book that begins with these leases.
    pub fn new(pool: Pool) -> Self {
        Self(Arc::new(Mutex::new(pool)))
    }

    fn open(&self) -> MutexGuard<'_, Pool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns which VM holds which CID at the moment.
    #[cfg(feature = "test-hooks")]
    pub fn holders(&self) -> Vec<(VmName, Cid)> {
        self.open().holders().map(|(vm, cid)| (vm.clone(), cid)).collect()
    }
}

/// The allocator. Its whole knowledge is a [`Ledger`].
#[derive(Debug)]
pub struct CidAllocator;

/// What the allocator can be asked.
#[derive(Debug)]
pub enum CidMsg {
    /// The VM's CID: the same one each time, until it is released.
    Lease {
        /// For whom.
        vm: VmName,
        /// The one its configuration names.
        fixed: Option<Cid>,
        /// The CID, or why there is none.
        reply: Reply<Result<Cid, LeaseError>>,
    },
    /// Another program holds the VM's CID: lease another one.
    Avoid {
        /// Whose.
        vm: VmName,
        /// As with `Lease`.
        fixed: Option<Cid>,
        /// The new CID, or why there is none.
        reply: Reply<Result<Cid, LeaseError>>,
    },
    /// A VM that was adopted has this one.
    Reserve {
        /// Who.
        vm: VmName,
        /// Which.
        cid: Cid,
        /// Whether another VM of the tree has it.
        reply: Reply<Result<(), LeaseError>>,
    },
    /// The VM is confirmed gone.
    Release(VmName),
    /// Makes the actor panic, for tests of what a failed actor leads to.
    #[cfg(feature = "test-hooks")]
    Panic,
}

impl Actor for CidAllocator {
    type Msg = CidMsg;
    type State = Ledger;
    type Arguments = Ledger;

    async fn pre_start(&self, _: ActorRef<CidMsg>, ledger: Ledger) -> Result<Ledger, ActorProcessingErr> {
        Ok(ledger)
    }

    async fn handle(
        &self,
        _: ActorRef<CidMsg>,
        msg: CidMsg,
        ledger: &mut Ledger,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            CidMsg::Lease { vm, fixed, reply } => {
                let lease = ledger.open().lease(&vm, fixed);
                reply.send(lease);
            }
            CidMsg::Avoid { vm, fixed, reply } => {
                let lease = {
                    let mut pool = ledger.open();
                    pool.avoid(&vm);
                    pool.lease(&vm, fixed)
                };
                reply.send(lease);
            }
            CidMsg::Reserve { vm, cid, reply } => {
                let reserved = ledger.open().reserve(&vm, cid);
                reply.send(reserved);
            }
            CidMsg::Release(vm) => ledger.open().release(&vm),
            #[cfg(feature = "test-hooks")]
            CidMsg::Panic => panic!("told to panic"),
        }
        Ok(())
    }
}
