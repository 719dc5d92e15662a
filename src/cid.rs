//! The CID allocator actor. A tree has one, so that leases outlive the VM actors that use them. The ledger of the
//! leases outlives the allocator itself: a lease is given before it could be saved anywhere else.

mod pool;

pub use pool::{LeaseError, Pool};

use crate::reply::Reply;
use crate::spec::{Cid, VmName};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The ledger of leases. All clones are one ledger: the successor of an allocator that has failed continues with it.
/// Every entry is made in a single step, so that the entries of a ledger can be trusted.
#[derive(Debug, Clone)]
pub struct Ledger(Arc<Mutex<Pool>>);

impl Ledger {
    /// Makes a ledger that begins with the leases of `pool`.
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

/// The allocator actor. Its whole state is in a [`Ledger`].
#[derive(Debug)]
pub struct CidAllocator;

/// A request to the allocator.
#[derive(Debug)]
pub enum CidMsg {
    /// Lease a CID: the VM gets the same one each time, until it is released.
    Lease {
        /// The VM that gets the CID.
        vm: VmName,
        /// The CID that its configuration names.
        fixed: Option<Cid>,
        /// Gets the CID, or the reason why there is none.
        reply: Reply<Result<Cid, LeaseError>>,
    },
    /// Lease another CID: another program holds the VM's CID.
    Avoid {
        /// The VM that gets another CID.
        vm: VmName,
        /// The CID that its configuration names.
        fixed: Option<Cid>,
        /// Gets the new CID, or the reason why there is none.
        reply: Reply<Result<Cid, LeaseError>>,
    },
    /// Enter the CID of a VM that was adopted.
    Reserve {
        /// The name of the VM.
        vm: VmName,
        /// The CID that the VM has.
        cid: Cid,
        /// Gets an error when another VM of the tree has the CID.
        reply: Reply<Result<(), LeaseError>>,
    },
    /// Release the CID of a VM that is confirmed gone.
    Release(VmName),
    /// Pass the CID of a spare on to the VM that it becomes.
    Pass {
        /// The name of the spare.
        from: VmName,
        /// The VM, which gives back the CID that it held.
        to: VmName,
    },
    /// Makes the actor panic, for tests of the consequences of a failed actor.
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
            CidMsg::Pass { from, to } => ledger.open().pass(&from, &to),
            #[cfg(feature = "test-hooks")]
            CidMsg::Panic => panic!("told to panic"),
        }
        Ok(())
    }
}
