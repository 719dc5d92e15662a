//! A queue for each VM: calls about a VM are made one after the other, in the order in which they entered.
//!
//! A call enters with [`Queues::enter`], which does not wait, and so fixes the order; the call then waits for its
//! predecessor. A call that ends, fails or is dropped makes way for its successor by being dropped.

use crate::spec::VmName;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The queues of all VMs. All clones share the same queues.
#[derive(Debug, Clone, Default)]
pub(super) struct Queues(Arc<Mutex<HashMap<VmName, Queue>>>);

/// The calls about one VM that have not ended yet.
#[derive(Debug, Default)]
struct Queue {
    /// The number of the newest call.
    newest: u64,
    /// Resolves when the newest call has ended.
    end: Option<oneshot::Receiver<Unfinished>>,
    /// The cancellation handles of the launches that can still be cancelled.
    cancels: Vec<oneshot::Sender<()>>,
}

/// A call that another call waits for.
#[derive(Debug)]
struct Predecessor {
    number: u64,
    end: oneshot::Receiver<Unfinished>,
}

/// The inheritance of a call for its successor: the predecessor that the call did not wait for itself, because it was
/// cancelled.
type Unfinished = Option<Predecessor>;

/// The place of a call in the queue of its VM, and, once [`VmLock::wait`] has returned, the right to be the only call
/// about the VM.
#[derive(Debug)]
pub(super) struct VmLock {
    queues: Queues,
    vm: VmName,
    number: u64,
    predecessor: Option<Predecessor>,
    end: Option<oneshot::Sender<Unfinished>>,
}

/// The signal to a launch that it is not wanted any more.
#[derive(Debug)]
pub(super) struct Cancel(oneshot::Receiver<()>);

impl Cancel {
    /// Waits until the launch is cancelled.
    pub(super) async fn requested(self) {
        if self.0.await.is_err() {
            // The queue has dropped its end, which says nothing about whether the launch is wanted.
            std::future::pending::<()>().await;
        }
    }
}

impl Queues {
    /// Takes the next place in the queue of `vm`.
    pub(super) fn enter(&self, vm: &VmName) -> VmLock {
        let (sender, receiver) = oneshot::channel();
        let mut queues = self.open();
        let queue = queues.entry(vm.clone()).or_default();
        let former = queue.newest;
        queue.newest += 1;
        let predecessor = queue.end.replace(receiver).map(|end| Predecessor { number: former, end });
        let (queues, vm, number) = (self.clone(), vm.clone(), queue.newest);
        VmLock { queues, vm, number, predecessor, end: Some(sender) }
    }

    /// Takes the next place in the queue of `vm` for a call that [`Queues::cancel`] can cancel.
    pub(super) fn enter_cancellable(&self, vm: &VmName) -> (VmLock, Cancel) {
        let lock = self.enter(vm);
        let (sender, receiver) = oneshot::channel();
        let mut queues = self.open();
        let cancels = &mut queues.entry(vm.clone()).or_default().cancels;
        cancels.retain(|cancel| !cancel.is_closed());
        cancels.push(sender);
        (lock, Cancel(receiver))
    }

    /// Cancels all calls about `vm` that can be cancelled at the moment.
    pub(super) fn cancel(&self, vm: &VmName) {
        let Some(cancels) = self.open().get_mut(vm).map(|queue| std::mem::take(&mut queue.cancels)) else {
            return;
        };
        for cancel in cancels {
            // The launcher may have been called meanwhile.
            let _ = cancel.send(());
        }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<VmName, Queue>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VmLock {
    /// Waits until no earlier call about the VM is under way.
    pub(super) async fn wait(&mut self) {
        while let Some(predecessor) = &mut self.predecessor {
            self.predecessor = (&mut predecessor.end).await.unwrap_or_default();
        }
    }
}

impl Drop for VmLock {
    fn drop(&mut self) {
        let queues = self.queues.clone();
        let mut queues = queues.open();
        // A predecessor that has ended by now sends before it looks at the queues: while the queues are locked, a
        // predecessor that has not sent yet will still find the value that is left here.
        while let Some(predecessor) = &mut self.predecessor {
            match predecessor.end.try_recv() {
                Ok(unfinished) => self.predecessor = unfinished,
                Err(oneshot::error::TryRecvError::Closed) => self.predecessor = None,
                Err(oneshot::error::TryRecvError::Empty) => break,
            }
        }
        let unfinished = self.predecessor.take();
        match queues.get_mut(&self.vm).filter(|queue| queue.newest == self.number) {
            Some(queue) => match unfinished {
                // The queue continues as if this call had never entered.
                Some(Predecessor { number, end }) => (queue.newest, queue.end) = (number, Some(end)),
                None => drop(queues.remove(&self.vm)),
            },
            None => {
                if let Some(end) = self.end.take() {
                    // The successor may be gone, too; then it has found the way to this call's predecessor before.
                    let _ = end.send(unfinished);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn vm() -> VmName {
        VmName::new("api").expect("a good name")
    }

    async fn is_free(lock: &mut VmLock) -> bool {
        tokio::time::timeout(Duration::from_secs(1), lock.wait()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_about_one_vm_wait_for_each_other_and_leave_nothing() {
        let queues = Queues::default();
        let (mut first, mut second) = (queues.enter(&vm()), queues.enter(&vm()));
        let mut other = queues.enter(&VmName::new("db").expect("a good name"));
        assert!(is_free(&mut first).await && is_free(&mut other).await);
        assert!(!is_free(&mut second).await);
        drop(first);
        assert!(is_free(&mut second).await);
        drop((second, other));
        assert!(queues.open().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_dropped_while_it_waits_does_not_let_its_successor_overtake() {
        let queues = Queues::default();
        let (mut first, second, mut third) = (queues.enter(&vm()), queues.enter(&vm()), queues.enter(&vm()));
        assert!(is_free(&mut first).await);
        drop(second);
        assert!(!is_free(&mut third).await);
        // The newest call leaves; the next call that enters waits all the same.
        drop(third);
        let mut fourth = queues.enter(&vm());
        assert!(!is_free(&mut fourth).await);
        drop(first);
        assert!(is_free(&mut fourth).await);
        drop(fourth);
        assert!(queues.open().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_panics_makes_way() {
        let queues = Queues::default();
        let (first, mut second) = (queues.enter(&vm()), queues.enter(&vm()));
        let failing = tokio::spawn(async move {
            let _lock = first;
            panic!("told to panic");
        });
        assert!(failing.await.is_err());
        assert!(is_free(&mut second).await);
    }

    #[tokio::test(start_paused = true)]
    async fn cancelling_reaches_all_that_wait_and_none_that_come_later() {
        let queues = Queues::default();
        let (_running, (_a, first), (_b, second)) =
            (queues.enter(&vm()), queues.enter_cancellable(&vm()), queues.enter_cancellable(&vm()));
        queues.cancel(&vm());
        let (_c, later) = queues.enter_cancellable(&vm());
        first.requested().await;
        second.requested().await;
        assert!(tokio::time::timeout(Duration::from_secs(1), later.requested()).await.is_err());
    }
}
