//! The questions about a group's strategy (OTP `supervisor`; semantics 5). Each is an exhaustive match, so that a new
//! strategy does not compile until all of them are answered.

use crate::spec::Strategy;

impl Strategy {
    /// Returns the first child, in start order, of those that are restarted together with the child `failed`; all
    /// after it are restarted, too. `None`: the child is restarted alone.
    pub(crate) fn first_affected(self, failed: usize) -> Option<usize> {
        match self {
            Self::OneForOne => None,
            Self::OneForAll => Some(0),
            Self::RestForOne => Some(failed),
        }
    }

    /// Returns whether a child depends on those before it, and so starts only when they are Ready, at every start.
    pub(crate) fn is_sequenced(self) -> bool {
        match self {
            Self::OneForOne => false,
            Self::OneForAll | Self::RestForOne => true,
        }
    }

    /// Returns whether the group gives up with one of its children.
    pub(crate) fn gives_up_as_one(self) -> bool {
        match self {
            Self::OneForAll => true,
            Self::OneForOne | Self::RestForOne => false,
        }
    }

    /// Returns whether the children after one that gave up are stopped and wait until it is back.
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
