//! The allocator as an actor: ten thousand random leases, during which the allocator is killed and replaced.

use pepita_supervisor::cid::{CidAllocator, CidMsg, LeaseError, Ledger, Pool};
use pepita_supervisor::reply::Reply;
use pepita_supervisor::spec::{Cid, VmName};
use ractor::{Actor, ActorRef};
use std::collections::{BTreeMap, BTreeSet};

async fn spawn(ledger: &Ledger) -> ActorRef<CidMsg> {
    Actor::spawn(None, CidAllocator, ledger.clone()).await.expect("the allocator starts").0
}

type Answer = tokio::sync::oneshot::Receiver<Option<Result<Cid, LeaseError>>>;

#[tokio::test(start_paused = true)]
async fn no_cid_is_leased_twice_or_lost_whenever_the_allocator_fails() {
    // semantics 2.5: leases outlive VM actors, and the allocator itself.
    let mut random = fastrand::Rng::with_seed(7);
    let vms: Vec<VmName> = (0..60).map(|n| VmName::new(&format!("vm-{n}")).expect("good")).collect();
    let ledger = Ledger::new(Pool::new("test"));
    let mut allocator = spawn(&ledger).await;
    // The CIDs that VMs were told; the requests that are not answered yet.
    let mut told: BTreeMap<VmName, Cid> = BTreeMap::new();
    let mut asked: Vec<(VmName, Answer)> = Vec::new();
    let (mut leases, mut failures) = (0, 0);
    while leases < 10_000 {
        let vm = vms[random.usize(..vms.len())].clone();
        let (reply, answer) = Reply::channel();
        // An allocator that is about to end drops the message, which answers.
        match random.u32(..40) {
            0 => {
                failures += 1;
                if random.bool() {
                    allocator.kill();
                } else {
                    let _ = allocator.cast(CidMsg::Panic);
                }
                // The successor may come before the allocator is gone, and work on the same ledger.
                if random.bool() {
                    let _ = allocator.wait(None).await;
                }
                allocator = spawn(&ledger).await;
            }
            1..15 => {
                told.remove(&vm);
                asked.retain(|(asker, _)| *asker != vm);
                let _ = allocator.cast(CidMsg::Release(vm));
            }
            15 => {
                let _ = allocator.cast(CidMsg::Avoid { vm: vm.clone(), fixed: None, reply });
                asked.push((vm, answer));
            }
            _ => {
                leases += 1;
                let _ = allocator.cast(CidMsg::Lease { vm: vm.clone(), fixed: None, reply });
                asked.push((vm, answer));
            }
        }
        if random.u32(..5) == 0 {
            tokio::task::yield_now().await;
        }
        for (vm, mut answer) in std::mem::take(&mut asked) {
            match answer.try_recv() {
                Ok(Some(lease)) => drop(told.insert(vm, lease.expect("a free CID"))),
                // The allocator has failed; the VM asks again.
                Ok(None) | Err(tokio::sync::oneshot::error::TryRecvError::Closed) => {}
                Err(tokio::sync::oneshot::error::TryRecvError::Empty) => asked.push((vm, answer)),
            }
        }
        let holders = ledger.holders();
        let distinct: BTreeSet<Cid> = holders.iter().map(|(_, cid)| *cid).collect();
        assert_eq!(distinct.len(), holders.len(), "leased twice");
    }
    assert!(failures > 200, "{failures}");
    // No CID is lost: each VM gets the CID that it was told last, and all CIDs come back in the end.
    for vm in &vms {
        let (reply, answer) = Reply::channel();
        allocator.cast(CidMsg::Lease { vm: vm.clone(), fixed: None, reply }).expect("the allocator lives");
        answer.await.expect("an answer").expect("the allocator lives").expect("a free CID");
    }
    assert_eq!(ledger.holders().len(), vms.len());
    for vm in &vms {
        allocator.cast(CidMsg::Release(vm.clone())).expect("the allocator lives");
    }
    allocator.drain_and_wait(None).await.expect("the allocator ends");
    assert_eq!(ledger.holders(), []);
}
