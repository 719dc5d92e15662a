//! Limits the number of hosts at the same time. A machine with two CPUs boots two or three VMs as fast as one.

use std::sync::{Condvar, Mutex, PoisonError};

const AT_ONCE: usize = 3;

static TAKEN: Mutex<usize> = Mutex::new(0);
static GIVEN_BACK: Condvar = Condvar::new();

/// A place among the hosts. Dropping it frees the place.
pub(crate) struct Permit(usize);

pub(crate) fn enter() -> Permit {
    take(1)
}

pub(crate) fn enter_alone() -> Permit {
    take(AT_ONCE)
}

fn take(wanted: usize) -> Permit {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    while *taken + wanted > AT_ONCE {
        taken = GIVEN_BACK.wait(taken).unwrap_or_else(PoisonError::into_inner);
    }
    *taken += wanted;
    Permit(wanted)
}

impl Drop for Permit {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        GIVEN_BACK.notify_all();
    }
}
