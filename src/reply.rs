//! An answer that always comes.

use std::fmt;

/// Where an answer goes. It is used up by answering; when it is dropped unanswered, because the actor that held it has
/// failed, the asker is told that too. So nobody has to wait on a clock for somebody who is gone.
pub struct Reply<T>(Option<Box<dyn FnOnce(Option<T>) + Send>>);

impl<T> Reply<T> {
    /// `tell` gets the answer, or `None` when whoever was asked is gone.
    pub fn new(tell: impl FnOnce(Option<T>) + Send + 'static) -> Self {
        Self(Some(Box::new(tell)))
    }

    /// An answer that nobody waits for.
    pub fn ignored() -> Self {
        Self(None)
    }

    /// Answers.
    pub fn send(mut self, answer: T) {
        if let Some(tell) = self.0.take() {
            tell(Some(answer));
        }
    }
}

impl<T: Send + 'static> Reply<T> {
    /// A reply and the future that gets it.
    pub fn channel() -> (Self, tokio::sync::oneshot::Receiver<Option<T>>) {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // The receiver may have given up; then there is nobody to tell.
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
