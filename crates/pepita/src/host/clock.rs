//! The wall clock, and a watch on it; the clock of the host that is never set.

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Returns the time in milliseconds since the Unix epoch.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the time of the monotonic clock in microseconds, for processes that measure together: all of the host read the
/// same clock.
pub(crate) fn monotonic_us() -> u64 {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

/// The last millisecond of the year 9999, the latest time that RFC 3339 can express.
const LATEST_MS: u64 = 253_402_300_799_999;

/// Returns a time in milliseconds since the Unix epoch as text, for people (RFC 3339). A later time than the text can
/// express reads as the latest.
pub fn to_text(unix_ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms.min(LATEST_MS));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// Returns a time as [`to_text`] does, to the millisecond.
pub fn to_text_ms(unix_ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms.min(LATEST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

/// The time after which a clock of a guest is compared with the host's, also when the host's was not set: both have
/// sources of their own, which drift apart.
const COMPARED_EVERY: Duration = Duration::from_secs(600);

/// A watch that tells when the clock was set, which the end of a suspend of the host does, too (timerfd_create(2)).
#[derive(Debug)]
pub(crate) struct ClockWatch {
    timer: OwnedFd,
}

impl ClockWatch {
    /// Returns a watch; `None` when the kernel has none to give.
    pub(crate) fn begin() -> Option<Self> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags).ok()?;
        let watch = Self { timer };
        watch.arm(COMPARED_EVERY).ok()?;
        Some(watch)
    }

    fn arm(&self, after: Duration) -> rustix::io::Result<()> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default() + after;
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        let never = Timespec { tv_sec: 0, tv_nsec: 0 };
        let it_value = Timespec::try_from(at).map_err(|_| Errno::RANGE)?;
        timerfd_settime(&self.timer, flags, &Itimerspec { it_interval: never, it_value }).map(drop)
    }

    /// Returns the descriptor, which is readable when the time has come to compare clocks.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }

    /// Reads the watch, and begins it anew. Returns whether clocks are to be compared.
    pub(crate) fn has_rung(&self) -> bool {
        // A clock that was set is an error of the read (ECANCELED).
        let read = rustix::io::read(&self.timer, &mut [0; 8]);
        let has_rung = !matches!(read, Err(Errno::AGAIN | Errno::INTR));
        if has_rung {
            // Without a new beginning the watch is silent, as without a watch.
            let _ = self.arm(COMPARED_EVERY);
        }
        has_rung
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::wait::wait_readable;

    // To set the clock needs a privilege, and would disturb the host: the kernel's part is in its documentation.
    #[test]
    fn a_watch_rings_at_its_time_and_begins_anew() {
        let watch = ClockWatch::begin().expect("a timer");
        assert!(!watch.has_rung());
        watch.arm(Duration::from_millis(1)).expect("armed");
        assert!(wait_readable(&watch.timer, Duration::from_secs(60)));
        assert!(watch.has_rung() && !watch.has_rung());
    }

    #[test]
    fn every_number_is_a_time() {
        assert_eq!(to_text(0), "1970-01-01T00:00:00Z");
        assert_eq!(to_text(u64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(
            (to_text_ms(7), to_text_ms(u64::MAX)),
            ("1970-01-01T00:00:00.007Z".into(), "9999-12-31T23:59:59.999Z".into())
        );
    }
}
