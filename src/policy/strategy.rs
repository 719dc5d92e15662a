//! Who shares a failure.

use crate::spec::Strategy;

/// The first child, in start order, of those that are restarted together with the child `failed`; all after it are too.
/// `None` when it is restarted alone.
pub fn first_affected(strategy: Strategy, failed: usize) -> Option<usize> {
    match strategy {
        Strategy::OneForOne => None,
        Strategy::OneForAll => Some(0),
        Strategy::RestForOne => Some(failed),
    }
}
