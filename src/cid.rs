//! The CID allocator actor: one for a tree, so that leases outlive the VM actors that use them.

mod pool;

pub use pool::{LeaseError, Pool};

use crate::reply::Reply;
use crate::spec::{Cid, VmName};
use ractor::{Actor, ActorProcessingErr, ActorRef};

/// The allocator. Its whole knowledge is a [`Pool`].
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
    /// Fail. For tests of what a failed actor leads to.
    Panic,
}

impl Actor for CidAllocator {
    type Msg = CidMsg;
    type State = Pool;
    type Arguments = Pool;

    async fn pre_start(&self, _: ActorRef<CidMsg>, pool: Pool) -> Result<Pool, ActorProcessingErr> {
        Ok(pool)
    }

    async fn handle(
        &self,
        _: ActorRef<CidMsg>,
        msg: CidMsg,
        pool: &mut Pool,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            CidMsg::Lease { vm, fixed, reply } => reply.send(pool.lease(&vm, fixed)),
            CidMsg::Avoid { vm, fixed, reply } => {
                pool.avoid(&vm);
                reply.send(pool.lease(&vm, fixed));
            }
            CidMsg::Reserve { vm, cid, reply } => reply.send(pool.reserve(&vm, cid)),
            CidMsg::Release(vm) => pool.release(&vm),
            CidMsg::Panic => panic!("told to panic"),
        }
        Ok(())
    }
}
