//! Decides whether an end is followed by a new start, by the rules that look at one VM alone; the first match wins
//! (semantics 3).
//!
//! The questions about a restart policy are methods with an exhaustive match, so that a new policy does not compile
//! until all of them are answered.

use crate::policy::{Cure, Ending, Reason};
use crate::spec::{Restart, RestartSpec};
use std::time::Duration;

/// The result of the rules for one VM, before the budgets and the group are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The VM is to be started again.
    Restart(Reason),
    /// The VM ended cleanly and stays down.
    Complete(Reason),
    /// The VM failed and stays down.
    Fail(Reason),
}

impl Restart {
    /// Returns whether a VM with this policy comes back after an end that was clean (or was not, if `clean` is false).
    pub(crate) fn restarts_on(self, clean: bool) -> bool {
        match self {
            Self::Always | Self::UnlessStopped => true,
            Self::OnFailure => !clean,
            Self::Never => false,
        }
    }

    /// Returns whether a restarted supervisor starts a VM that was down when the former one ended: one that the
    /// operator had stopped, or that had completed (semantics 9.8).
    pub(crate) fn returns_after_supervisor_restart(self) -> bool {
        match self {
            Self::Always => true,
            Self::UnlessStopped | Self::OnFailure | Self::Never => false,
        }
    }

    /// Returns whether a VM with this policy is ever restarted without an operator. A VM that is not comes back with no
    /// group restart either, and its siblings do not depend on its return.
    pub(crate) fn ever_restarts(self) -> bool {
        match self {
            Self::Always | Self::UnlessStopped | Self::OnFailure => true,
            Self::Never => false,
        }
    }
}

impl RestartSpec {
    /// Returns whether an incarnation that was Ready for `ready_for` without a break clears the failures before it.
    /// `None`: the incarnation was never Ready, and the failures stay (semantics 4).
    pub(crate) fn forgets_failures(&self, ready_for: Option<Duration>) -> bool {
        ready_for.is_some_and(|ready| ready >= self.reset_after)
    }

    /// Returns the result of the rules for this VM alone on an end that neither the supervisor nor the operator had
    /// asked for. `has_run`: the daemon of the VM has run before, in this incarnation or in an earlier one, so that
    /// what is missing now was there and may come back.
    pub fn verdict(&self, ending: &Ending, has_run: bool) -> Verdict {
        let code = ending.code();
        let is_in = |codes: &std::collections::BTreeSet<i32>| code.is_some_and(|code| codes.contains(&code));
        if is_in(&self.never) {
            return Verdict::Fail(Reason::NeverRestartExitCode);
        }
        if is_in(&self.always) {
            return Verdict::Restart(Reason::AlwaysRestartExitCode);
        }
        match (ending.cure(), has_run) {
            (Cure::Configuration, _) | (Cure::Repair, false) => return Verdict::Fail(Reason::Hopeless),
            (Cure::Repair, true) | (Cure::Time, _) => {}
        }
        let (clean, reason) = (is_in(&self.success), Reason::Policy(self.policy));
        match (self.policy.restarts_on(clean), clean) {
            (true, _) => Verdict::Restart(reason),
            (false, true) => Verdict::Complete(reason),
            (false, false) => Verdict::Fail(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Exit;
    use std::collections::BTreeSet;

    fn spec(policy: Restart) -> RestartSpec {
        RestartSpec {
            policy,
            success: BTreeSet::from([0, 10]),
            never: BTreeSet::from([64]),
            always: BTreeSet::from([75]),
            ..RestartSpec::default()
        }
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        use Verdict::{Complete, Fail, Restart as Again};
        let exit = |code| Ending::from(Exit::code(code));
        let launch =
            |recoverable, refused| Ending::NotLaunched { recoverable, refused, message: String::new() };
        let (missing, busy, refused) = (launch(false, false), launch(true, false), launch(false, true));
        for policy in [Restart::Always, Restart::UnlessStopped, Restart::OnFailure, Restart::Never] {
            let (spec, reason) = (spec(policy), Reason::Policy(policy));
            assert_eq!(spec.verdict(&exit(64), true), Fail(Reason::NeverRestartExitCode));
            assert_eq!(spec.verdict(&exit(75), true), Again(Reason::AlwaysRestartExitCode));
            assert_eq!(spec.verdict(&missing, false), Fail(Reason::Hopeless));
            assert_eq!(spec.verdict(&refused, true), Fail(Reason::Hopeless));
            let failed = if policy == Restart::Never { Fail(reason) } else { Again(reason) };
            for ending in [
                exit(3),
                Exit::signal(11).into(),
                Exit::GuestPanic { line: String::new() }.into(),
                Exit::Unknown.into(),
                busy.clone(),
            ] {
                assert_eq!(spec.verdict(&ending, false), failed, "{policy:?} {ending}");
            }
            assert_eq!(spec.verdict(&missing, true), failed, "{policy:?}");
            let ended = match policy {
                Restart::Always | Restart::UnlessStopped => Again(reason),
                Restart::OnFailure | Restart::Never => Complete(reason),
            };
            assert_eq!(spec.verdict(&exit(0), true), ended);
            assert_eq!(spec.verdict(&exit(10), true), ended);
        }
    }
}
