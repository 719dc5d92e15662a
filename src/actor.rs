//! Code that several actors share: the runtime's clock, one timer, the event that a child is gone, and a handle that
//! stays valid when an actor is replaced.

use ractor::{ActorId, ActorRef, Message, SupervisionEvent};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

/// Returns the time by the runtime's clock, which a test can control.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The timer by which an actor is told that a moment has come.
///
/// Timers are not cancelled: a tick that comes too early finds no work, and no further tick follows it.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    /// The earliest moment for which a tick is under way.
    due: Option<Instant>,
}

impl Alarm {
    /// Makes sure that `me` is sent `tick` at `wake_at`, unless an earlier tick is under way.
    pub(crate) fn set<M: Message>(
        &mut self,
        me: &ActorRef<M>,
        wake_at: Option<Instant>,
        tick: fn(Instant) -> M,
    ) {
        let Some(wake_at) = wake_at else { return };
        if self.due.is_none_or(|due| wake_at < due) {
            self.due = Some(wake_at);
            me.send_after(wake_at.saturating_duration_since(now()), move || tick(wake_at));
        }
    }

    /// Records that the tick for the moment `due` has come.
    pub(crate) fn rang(&mut self, due: Instant) {
        self.due.take_if(|waiting| *waiting == due);
    }
}

/// A child actor that has ended or failed.
#[derive(Debug)]
pub(crate) struct LostChild {
    pub(crate) id: ActorId,
    /// How the actor ended, as text for people.
    pub(crate) why: String,
}

impl LostChild {
    /// Returns the child whose end `event` reports, if the event reports an end.
    pub(crate) fn of(event: SupervisionEvent) -> Option<Self> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                Some(Self { id: cell.get_id(), why: error.to_string() })
            }
            SupervisionEvent::ActorTerminated(cell, _, reason) => {
                Some(Self { id: cell.get_id(), why: reason.unwrap_or_else(|| "it ended".into()) })
            }
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => None,
        }
    }
}

/// A handle to an actor that the root keeps alive: the handle stays valid when the root replaces the actor.
#[derive(Debug)]
pub struct Service<M>(Arc<RwLock<ActorRef<M>>>);

impl<M> Clone for Service<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Message> Service<M> {
    /// Makes a handle to `actor`.
    pub fn new(actor: ActorRef<M>) -> Self {
        Self(Arc::new(RwLock::new(actor)))
    }

    /// Sends a message. An actor that has just failed drops the message together with its reply, which tells the asker:
    /// so no asker waits in vain.
    pub fn send(&self, msg: M) {
        let actor = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let _ = actor.cast(msg);
    }

    /// Points the handle, and all its clones, at the actor's successor. Called by the root only.
    pub fn replace(&self, actor: ActorRef<M>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = actor;
    }
}
