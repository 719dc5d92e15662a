//! Answers the questions about a group's strategy (OTP `supervisor`; semantics 5). Each answer is an exhaustive match,
//! so that a new strategy does not compile until all questions are answered.

use crate::spec::Strategy;

impl Strategy {
    /// Returns the first, in start order, of the children that are restarted together with the child `failed`; all
    /// children after the first are restarted, too. `None`: the child `failed` is restarted alone.
    pub(crate) fn first_affected(self, failed: usize) -> Option<usize> {
        match self {
            Self::OneForOne => None,
            Self::OneForAll => Some(0),
            Self::RestForOne => Some(failed),
        }
    }

    /// Returns whether a child depends on the children before it, and so starts only when they are Ready, at every
    /// start.
    pub(crate) fn is_sequenced(self) -> bool {
        match self {
            Self::OneForOne => false,
            Self::OneForAll | Self::RestForOne => true,
        }
    }

    /// Returns whether the group gives up when one of its children gives up.
    pub(crate) fn gives_up_as_one(self) -> bool {
        match self {
            Self::OneForAll => true,
            Self::OneForOne | Self::RestForOne => false,
        }
    }

    /// Returns whether the children after a child that gave up are stopped and wait until it is back.
    pub(crate) fn waits_behind_failed(self) -> bool {
        match self {
            Self::RestForOne => true,
            Self::OneForOne | Self::OneForAll => false,
        }
    }

    /// Returns whether a child that is added during a group restart takes part in it, wherever it stands.
    pub(crate) fn restarts_all(self) -> bool {
        match self {
            Self::OneForAll => true,
            Self::OneForOne | Self::RestForOne => false,
        }
    }
}
