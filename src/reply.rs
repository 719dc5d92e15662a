//! A reply that is always answered, even by an actor that fails.

use std::fmt;

/// The way back to the asker of a question. Answering consumes the reply. When the reply is dropped unanswered, because
/// the actor that held it has failed, the asker is told that, too: no asker needs a timeout for an actor that is gone.
pub struct Reply<T>(Option<Box<dyn FnOnce(Option<T>) + Send>>);

impl<T> Reply<T> {
    /// Makes a reply that calls `tell` with the answer, or with `None` when the reply is dropped.
    pub fn new(tell: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// Makes a reply for a question whose answer does not matter.
    pub fn ignored() -> Self {
        Self(None)
    }

    /// Answers the question.
    pub fn send(mut self, answer: T) {
        if let Some(tell) = self.0.take() {
            tell(Some(answer));
        }
    }
}

impl<T: Send + 'static> Reply<T> {
    /// Returns a reply and the future of the answer.
    pub fn channel() -> (Self, tokio::sync::oneshot::Receiver<Option<T>>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // The asker may have given up.
        (Self::new(move |answer| drop(sender.send(answer))), receiver)
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        if let Some(tell) = self.0.take() {
            tell(None);
        }
    }
}

impl<T> fmt::Debug for Reply<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}
