//! Counts the memory that a run holds at most, so that a parser which believes a length is found by the first input that
//! claims one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, with a count for each thread.
#[derive(Debug)]
pub struct Counting;

/// The bytes that a thread holds, and the most that it has held.
#[derive(Clone, Copy)]
struct Held {
    now: isize,
    most: isize,
}

thread_local! {
    // It has no destructor, so that an allocator may use it at any time of a thread.
    static HELD: Cell<Held> = const { Cell::new(Held { now: 0, most: 0 }) };
}

/// Counts a change. Memory may be freed by another thread than the one that has asked for it, so the sum may be negative.
fn count(change: isize) {
    let held = HELD.get();
    let now = held.now.wrapping_add(change);
    HELD.set(Held { now, most: held.most.max(now) });
}

/// Runs a function, and returns the most bytes that it has held at once beyond those that the thread had before.
pub fn most_of(run: impl FnOnce()) -> usize {
    let before = HELD.get().now;
    HELD.set(Held { now: before, most: before });
    run();
    usize::try_from(HELD.get().most.wrapping_sub(before)).unwrap_or(0)
}

fn size(length: usize) -> isize {
    isize::try_from(length).unwrap_or(isize::MAX)
}

// SAFETY: every call is the system allocator's, with the same arguments; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        // SAFETY: the caller keeps the promises of this function, which are those of the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(size(layout.size()));
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-size(layout.size()));
        // SAFETY: as above.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, length: usize) -> *mut u8 {
        // The old and the new place are held together for a moment.
        count(size(length));
        count(-size(layout.size()));
        // SAFETY: as above.
        unsafe { System.realloc(at, layout, length) }
    }
}
