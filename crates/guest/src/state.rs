//! The state that the agent's threads share, and the decisions about it. Knows no thread, no lock, no clock and no I/O.
//!
//! ```text
//!            start                       the process ends
//!   Held ─────────────────▶ Running ─────────────────────▶ Exited
//!    │ │ start of a program    │                             ▲ │
//!    │ │ that cannot be        │ power off:                  │ │ acknowledged, or 1 s has
//!    │ │ executed              │ SIGKILL                     │ │ passed, or power off
//!    │ └───────────────────────┼─────────────────────────────┘ │
//!    │ power off, or a stop    │                               │
//!    ▼                         ▼                               ▼
//!    ───────────────────── the agent ends ──────────────────────
//! ```
//!
//! The daemon is started only once, because a restart uses a new VM.

use crate::tail::Tail;
use pepita_wire::agent::Health;
use pepita_wire::protocol::{HEALTH_INTERVAL, HEARTBEAT_INTERVAL};
use pepita_wire::{Exit, GuestEvent};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The number of events that are kept for watchers that connect later.
const EVENTS_KEPT: usize = 256;

/// The time that the agent waits before its end for a host to acknowledge the daemon's end, for the clients whose
/// requests may have ended the daemon, and for those that watch.
const ACKNOWLEDGE: Duration = Duration::from_secs(1);

/// The part of the agent that changes.
#[derive(Debug)]
pub(crate) struct State {
    /// The token that a host must show.
    token: String,
    /// Whether a host has replaced the boot token.
    token_replaced: bool,
    /// The phase of the daemon's life.
    pub(crate) daemon: Daemon,
    /// Whether the daemon has said `READY=1`.
    pub(crate) ready: bool,
    /// The daemon's last `STATUS=` text.
    pub(crate) status: String,
    /// The last events, numbered from 1.
    events: VecDeque<(u64, GuestEvent)>,
    /// The number of the newest event.
    pub(crate) seq: u64,
    /// What the daemon has said of itself and was not reported yet.
    unreported: Option<Health>,
    /// The time of the last report of what the daemon says of itself.
    health_at: Option<Instant>,
    /// The newest event that a client has acknowledged.
    pub(crate) acked: u64,
    /// The number of connections whose client has asked for what may have ended the daemon and may not have its answer
    /// yet.
    pub(crate) answering: usize,
    /// Whether the daemon has asked to stay awake.
    is_kept_awake: bool,
    /// The number of commands and copies whose streams a client holds.
    streams: usize,
    /// Whether the host was told that the VM is to stay awake.
    told_awake: bool,
    /// The number of connections whose client watches and was not sent the daemon's end yet.
    pub(crate) telling: usize,
    /// The time at which a daemon that was asked to stop is killed.
    pub(crate) stop_deadline: Option<Instant>,
    /// Whether a host has signalled the daemon, or the daemon has said `STOPPING=1`. Such a daemon may end at any time.
    pub(crate) may_end: bool,
    /// Whether the output of the daemon has ended.
    pub(crate) output_ended: bool,
    /// Whether the agent has to end without waiting.
    pub(crate) power_off: bool,
    /// The daemon's last output.
    pub(crate) tail: Tail,
}

/// The phase of the daemon's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Daemon {
    /// No client has asked for the start of the daemon yet.
    Held,
    /// The daemon runs.
    Running {
        /// The pid of the daemon's main process.
        pid: u32,
        /// The time of the start.
        since: Instant,
    },
    /// The daemon has ended, or could not be executed.
    Exited {
        /// The end of the daemon.
        exit: Exit,
        /// The number of the event that reports the end.
        seq: u64,
        /// The time of the end.
        at: Instant,
    },
}

/// The next action of the agent that concerns its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Wait for a change of the state, at most for this time.
    Wait(Option<Duration>),
    /// Kill this process group, then end the agent.
    Kill(u32),
    /// End the agent.
    End,
}

impl State {
    /// Returns the state of an agent that has not started its daemon yet.
    pub(crate) fn new(token: String) -> Self {
        Self {
            token,
            token_replaced: false,
            daemon: Daemon::Held,
            ready: false,
            status: String::new(),
            events: VecDeque::new(),
            seq: 0,
            unreported: None,
            health_at: None,
            acked: 0,
            answering: 0,
            is_kept_awake: false,
            streams: 0,
            told_awake: false,
            telling: 0,
            stop_deadline: None,
            may_end: false,
            output_ended: false,
            power_off: false,
            tail: Tail::default(),
        }
    }

    /// Returns the token that a host must show, and that marks the agent's notes on the console.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    /// Checks a host's token. The first host that is accepted before the daemon runs may replace the boot token,
    /// because an older launcher puts the boot token on the kernel's command line, where the daemon can read it.
    pub(crate) fn admits(&mut self, token: Option<&str>, new_token: Option<&str>) -> bool {
        if self.token.is_empty() || token != Some(&self.token) {
            return false;
        }
        if let Some(new) = new_token.filter(|new| !new.is_empty())
            && !self.token_replaced
            && self.daemon == Daemon::Held
        {
            new.clone_into(&mut self.token);
            self.token_replaced = true;
        }
        true
    }

    /// Records that the daemon runs.
    pub(crate) fn started(&mut self, pid: u32, since: Instant) {
        self.daemon = Daemon::Running { pid, since };
        self.report(GuestEvent::Started { pid });
    }

    /// Returns the pid of the daemon's main process, while it runs.
    pub(crate) fn main_pid(&self) -> Option<u32> {
        match &self.daemon {
            Daemon::Running { pid, .. } => Some(*pid),
            Daemon::Held | Daemon::Exited { .. } => None,
        }
    }

    /// Records that another process is the daemon's main process from now on. Returns whether the daemon runs.
    pub(crate) fn follows(&mut self, main: u32) -> bool {
        match &mut self.daemon {
            Daemon::Running { pid, .. } => *pid = main,
            Daemon::Held | Daemon::Exited { .. } => return false,
        }
        self.report(GuestEvent::Health(Health { main_pid: Some(main), ..Health::default() }));
        true
    }

    /// Moves the time at which a daemon that was asked to stop is killed to later, never to earlier.
    pub(crate) fn extend_stop(&mut self, until: Instant) {
        self.stop_deadline = self.stop_deadline.map(|deadline| deadline.max(until));
    }

    /// Records that the daemon has ended, or that it could not be executed.
    pub(crate) fn exited(&mut self, exit: Exit, at: Instant) {
        // What the daemon has said before its end is reported before its end.
        if let Some(health) = self.unreported.take() {
            self.report(GuestEvent::Health(health));
        }
        let seq = self.report(GuestEvent::Exited(exit.clone()));
        self.daemon = Daemon::Exited { exit, seq, at };
    }

    /// Decides the next action of the agent that concerns its own end.
    pub(crate) fn next(&self, now: Instant) -> Next {
        match (&self.daemon, self.power_off) {
            (Daemon::Running { pid, .. }, true) => Next::Kill(*pid),
            (Daemon::Held | Daemon::Exited { .. }, true) => Next::End,
            (Daemon::Held | Daemon::Running { .. }, false) => Next::Wait(None),
            (Daemon::Exited { seq, at, .. }, false) => {
                let left = (*at + ACKNOWLEDGE).saturating_duration_since(now);
                let told = self.acked >= *seq && self.answering == 0 && self.telling == 0;
                if told || left.is_zero() { Next::End } else { Next::Wait(Some(left)) }
            }
        }
    }

    /// Takes in that a client has read all events up to this one. Returns whether it knows of the daemon's end.
    pub(crate) fn acknowledged(&mut self, up_to: u64) -> bool {
        self.acked = self.acked.max(up_to);
        self.is_end(up_to)
    }

    /// Returns whether a client that was sent all events up to this one was sent the daemon's end.
    pub(crate) fn is_end(&self, up_to: u64) -> bool {
        matches!(&self.daemon, Daemon::Exited { seq, .. } if up_to >= *seq)
    }

    /// Returns the daemon's end and the number of its event, as long as no client has acknowledged the event.
    pub(crate) fn unacknowledged_exit(&self) -> Option<(u64, &Exit)> {
        match &self.daemon {
            Daemon::Exited { exit, seq, .. } if self.acked < *seq => Some((*seq, exit)),
            Daemon::Held | Daemon::Running { .. } | Daemon::Exited { .. } => None,
        }
    }

    /// Numbers an event and keeps it for watchers. Returns the number.
    pub(crate) fn report(&mut self, event: GuestEvent) -> u64 {
        self.seq += 1;
        if is_heartbeat(&event) {
            // Only the last heartbeat is kept, because the heartbeats of a daemon that runs for long would push out all
            // other events.
            self.events.retain(|(_, earlier)| !is_heartbeat(earlier));
        }
        if is_status(&event) {
            // For the same reason only the last text is kept.
            self.events.retain(|(_, earlier)| !is_status(earlier));
        }
        if is_awake(&event) {
            self.events.retain(|(_, earlier)| !is_awake(earlier));
        }
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back((self.seq, event));
        self.seq
    }

    /// Takes in what the daemon says of itself, and reports it unless the last report was just before. Returns whether
    /// it was reported. A daemon may say the same thing thousands of times in a second, and each report costs the host
    /// work.
    pub(crate) fn hear(&mut self, mut health: Health, now: Instant) -> bool {
        if let Some(awake) = health.awake {
            self.is_kept_awake = awake;
            health.awake = self.awake_news();
        }
        if health == Health::default() {
            return false;
        }
        if let Some(status) = &health.status {
            self.status.clone_from(status);
        }
        self.unreported.get_or_insert_default().merge(health);
        self.report_health(now)
    }

    /// Takes in that a client has one stream more, or one less, and reports at once whether that keeps the VM awake.
    pub(crate) fn streams_changed(&mut self, is_more: bool) {
        self.streams = if is_more { self.streams + 1 } else { self.streams.saturating_sub(1) };
        if let Some(awake) = self.awake_news() {
            if let Some(unreported) = &mut self.unreported {
                unreported.awake = None;
            }
            self.report(GuestEvent::Health(Health { awake: Some(awake), ..Health::default() }));
        }
    }

    /// Returns whether the VM is to stay awake, if the host was told otherwise.
    fn awake_news(&mut self) -> Option<bool> {
        let awake = self.is_kept_awake || self.streams > 0;
        (std::mem::replace(&mut self.told_awake, awake) != awake).then_some(awake)
    }

    /// Returns the time at which [`State::report_health`] has to be called.
    pub(crate) fn health_due(&self) -> Option<Instant> {
        let interval = match self.unreported.as_ref()?.watchdog {
            true => HEARTBEAT_INTERVAL,
            false => HEALTH_INTERVAL,
        };
        self.health_at.map(|at| at + interval)
    }

    /// Reports what the daemon has said of itself, when that is due. Returns whether it was reported.
    pub(crate) fn report_health(&mut self, now: Instant) -> bool {
        if self.health_due().is_some_and(|due| now < due) {
            return false;
        }
        let Some(health) = self.unreported.take().filter(|health| *health != Health::default()) else {
            return false;
        };
        self.health_at = Some(now);
        self.report(GuestEvent::Health(health));
        true
    }

    /// Returns the kept events with a number above `since`.
    pub(crate) fn events_since(&self, since: u64) -> Vec<(u64, GuestEvent)> {
        self.events.iter().filter(|(seq, _)| *seq > since).cloned().collect()
    }
}

/// Returns whether an event contains only `WATCHDOG=1`.
fn is_heartbeat(event: &GuestEvent) -> bool {
    matches!(event, GuestEvent::Health(health) if *health == Health { watchdog: true, ..Health::default() })
}

/// Returns whether an event contains only a text of `STATUS=`.
fn is_status(event: &GuestEvent) -> bool {
    matches!(event, GuestEvent::Health(health) if health.status.is_some()
        && *health == Health { status: health.status.clone(), ..Health::default() })
}

/// Returns whether an event contains only whether the VM is to stay awake.
fn is_awake(event: &GuestEvent) -> bool {
    matches!(event, GuestEvent::Health(health) if health.awake.is_some()
        && *health == Health { awake: health.awake, ..Health::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_ends_when_the_exit_is_acknowledged_or_a_second_has_passed() {
        let (mut state, now) = (State::new("t".into()), Instant::now());
        assert_eq!(state.next(now), Next::Wait(None));
        state.started(7, Instant::now());
        assert_eq!(state.next(now), Next::Wait(None));
        state.exited(Exit::code(3), now);
        assert_eq!(state.next(now), Next::Wait(Some(ACKNOWLEDGE)));
        assert_eq!(state.next(now + ACKNOWLEDGE), Next::End);
        state.acked = 1;
        assert_eq!(state.next(now), Next::Wait(Some(ACKNOWLEDGE)), "that was the start's event");
        assert_eq!(state.unacknowledged_exit(), Some((2, &Exit::code(3))));
        state.acked = 2;
        assert_eq!((state.next(now), state.unacknowledged_exit()), (Next::End, None));
    }

    #[test]
    fn the_agent_does_not_end_before_the_answer_to_the_signal_that_ended_the_daemon() {
        let (mut state, now) = (State::new("t".into()), Instant::now());
        state.started(7, now);
        state.answering = 1;
        assert!(!state.acknowledged(1), "that was the start's event");
        state.exited(Exit::signal(1), now);
        assert!(!state.acknowledged(1) && state.acknowledged(2), "another client knows of the end");
        assert_eq!(state.next(now), Next::Wait(Some(ACKNOWLEDGE)));
        assert_eq!(state.next(now + ACKNOWLEDGE), Next::End, "a client that does not read holds up nothing");
        state.answering = 0;
        assert_eq!(state.next(now), Next::End);
    }

    #[test]
    fn the_agent_does_not_end_before_every_client_that_watches_was_sent_the_end() {
        let (mut state, now) = (State::new("t".into()), Instant::now());
        state.telling = 1;
        state.started(7, now);
        state.exited(Exit::code(0), now);
        assert!(state.acknowledged(2) && !state.is_end(1) && state.is_end(2));
        assert_eq!(state.next(now), Next::Wait(Some(ACKNOWLEDGE)));
        assert_eq!(state.next(now + ACKNOWLEDGE), Next::End, "a client that does not read holds up nothing");
        state.telling = 0;
        assert_eq!(state.next(now), Next::End);
    }

    #[test]
    fn a_power_off_waits_for_nothing() {
        let (mut state, now) = (State::new("t".into()), Instant::now());
        state.power_off = true;
        assert_eq!(state.next(now), Next::End);
        state.started(7, Instant::now());
        assert_eq!(state.next(now), Next::Kill(7));
        state.exited(Exit::code(0), now);
        assert_eq!(state.next(now), Next::End);
    }

    #[test]
    fn the_boot_token_is_replaced_once_and_only_before_the_daemon_runs() {
        let mut state = State::new("boot".into());
        assert!(!state.admits(None, None) && !state.admits(Some("else"), Some("new")));
        assert!(state.admits(Some("boot"), Some("")), "an empty token replaces nothing");
        assert!(state.admits(Some("boot"), Some("new")));
        assert!(!state.admits(Some("boot"), None));
        assert!(state.admits(Some("new"), Some("newer")));
        assert_eq!(state.token(), "new");
        let mut late = State::new("boot".into());
        late.started(7, Instant::now());
        assert!(late.admits(Some("boot"), Some("new")));
        assert_eq!(late.token(), "boot");
        assert!(!State::new(String::new()).admits(Some(""), None), "without a token no host is let in");
    }

    #[test]
    fn a_flood_of_status_texts_is_reported_ten_times_a_second_and_the_last_one_counts() {
        let (mut state, start) = (State::new("t".into()), Instant::now());
        state.started(7, Instant::now());
        let said = |n: u32| Health { status: Some(format!("step {n}")), ..Health::default() };
        // 20,000 texts in a second, and the reports that are due in between.
        let reported =
            (0..20_000_u32).filter(|n| state.hear(said(*n), start + *n * Duration::from_micros(50)));
        assert_eq!(reported.count(), 10);
        assert_eq!(state.status, "step 19999");
        let due = state.health_due().expect("the last text waits");
        assert!(!state.report_health(due - Duration::from_nanos(1)) && state.report_health(due));
        let events = state.events_since(0);
        assert_eq!(events, [(1, GuestEvent::Started { pid: 7 }), (12, GuestEvent::Health(said(19_999)))]);
        assert_eq!((state.health_due(), state.report_health(due)), (None, false));
    }

    #[test]
    fn what_is_said_in_between_is_merged_and_a_heartbeat_waits_less() {
        let (mut state, now) = (State::new("t".into()), Instant::now());
        let status = |text: &str| Health { status: Some(text.into()), ..Health::default() };
        let heartbeat = Health { watchdog: true, ..Health::default() };
        let stopping = Health { stopping: true, extend_timeout_us: Some(7), ..Health::default() };
        assert!(state.hear(status("a"), now));
        assert!(!state.hear(stopping, now) && !state.hear(status("b"), now));
        assert_eq!(state.health_due(), Some(now + HEALTH_INTERVAL));
        assert!(!state.hear(heartbeat, now));
        assert_eq!(state.health_due(), Some(now + HEARTBEAT_INTERVAL));
        assert!(state.report_health(now + HEARTBEAT_INTERVAL));
        let merged = Health {
            watchdog: true,
            status: Some("b".into()),
            extend_timeout_us: Some(7),
            stopping: true,
            ..Health::default()
        };
        assert_eq!(state.events_since(1), [(2, GuestEvent::Health(merged))]);
    }

    #[test]
    fn a_vm_stays_awake_as_long_as_its_daemon_or_a_stream_wants_it() {
        let (mut state, now) = (State::new("t".into()), Instant::now());
        let said = |awake| Health { awake: Some(awake), ..Health::default() };
        let told = |state: &State, seq, awake| {
            assert_eq!(
                state.events_since(0),
                [(seq, GuestEvent::Health(said(awake)))],
                "the last one is kept"
            );
        };
        state.streams_changed(true);
        told(&state, 1, true);
        assert!(!state.hear(said(true), now), "the host knows it");
        state.streams_changed(false);
        told(&state, 1, true);
        assert!(state.hear(said(false), now));
        told(&state, 2, false);
        assert!(!state.hear(said(true), now) && state.health_due().is_some(), "it is told a little later");
        state.hear(said(false), now);
        state.streams_changed(true);
        told(&state, 3, true);
        assert!(!state.report_health(now + HEALTH_INTERVAL), "nothing is left to be told");
    }

    #[test]
    fn heartbeats_do_not_push_out_other_events() {
        let mut state = State::new("t".into());
        state.started(7, Instant::now());
        for _ in 0..2 * EVENTS_KEPT {
            state.report(GuestEvent::Health(Health { watchdog: true, ..Health::default() }));
        }
        let kept = state.events_since(0);
        assert_eq!(kept.len(), 2);
        assert_eq!(kept[0], (1, GuestEvent::Started { pid: 7 }));
        assert_eq!(kept[1].0, state.seq);
    }

    #[test]
    fn a_daemon_that_stops_may_ask_for_more_time_and_never_gets_less() {
        let (mut state, now) = (State::new("t".into()), Instant::now());
        state.extend_stop(now + ACKNOWLEDGE);
        assert_eq!(state.stop_deadline, None, "no stop was asked for");
        state.stop_deadline = Some(now + ACKNOWLEDGE);
        state.extend_stop(now);
        assert_eq!(state.stop_deadline, Some(now + ACKNOWLEDGE));
        state.extend_stop(now + ACKNOWLEDGE * 2);
        assert_eq!(state.stop_deadline, Some(now + ACKNOWLEDGE * 2));
    }

    #[test]
    fn the_main_process_of_a_daemon_that_runs_may_change() {
        let mut state = State::new("t".into());
        assert!(!state.follows(8));
        state.started(7, Instant::now());
        assert!(state.follows(8));
        assert_eq!(state.main_pid(), Some(8));
        state.exited(Exit::code(0), Instant::now());
        assert!(!state.follows(9));
    }
}
