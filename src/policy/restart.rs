//! Whether an end is followed by a new start: the rules that look at one VM alone, first match wins.

use crate::policy::Ending;
use crate::spec::{Restart, RestartSpec};
use std::fmt;

/// What follows an end that nobody had asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It comes back.
    Restart(Rule),
    /// It ended cleanly and stays down.
    Complete(Rule),
    /// It failed and stays down.
    Fail(Rule),
}

/// Which rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Its code is among `never_restart_exit_codes`.
    NeverCode,
    /// Its code is among `always_restart_exit_codes`.
    AlwaysCode,
    /// The launch cannot succeed next time either.
    NotRecoverable,
    /// Its restart policy.
    Policy(Restart),
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverCode => "never_restart_exit_codes",
            Self::AlwaysCode => "always_restart_exit_codes",
            Self::NotRecoverable => "launch cannot succeed",
            Self::Policy(Restart::Always) => "always",
            Self::Policy(Restart::UnlessStopped) => "unless-stopped",
            Self::Policy(Restart::OnFailure) => "on-failure",
            Self::Policy(Restart::Never) => "never",
        })
    }
}

/// Judges an end that neither we nor the operator had asked for.
pub fn judge(spec: &RestartSpec, ending: &Ending) -> Judgement {
    let code = ending.code();
    let code = code.as_ref();
    if code.is_some_and(|code| spec.never.contains(code)) {
        return Judgement::Fail(Rule::NeverCode);
    }
    if code.is_some_and(|code| spec.always.contains(code)) {
        return Judgement::Restart(Rule::AlwaysCode);
    }
    if ending.is_hopeless() {
        return Judgement::Fail(Rule::NotRecoverable);
    }
    let clean = code.is_some_and(|code| spec.success.contains(code));
    let rule = Rule::Policy(spec.policy);
    match (spec.policy, clean) {
        (Restart::Always | Restart::UnlessStopped, _) | (Restart::OnFailure, false) => {
            Judgement::Restart(rule)
        }
        (Restart::OnFailure | Restart::Never, true) => Judgement::Complete(rule),
        (Restart::Never, false) => Judgement::Fail(rule),
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
        use Judgement::{Complete, Fail, Restart as Again};
        let exit = |code| Ending::from(Exit::code(code));
        let missing = Ending::NotLaunched { recoverable: false, message: String::new() };
        let busy = Ending::NotLaunched { recoverable: true, message: String::new() };
        for policy in [Restart::Always, Restart::UnlessStopped, Restart::OnFailure, Restart::Never] {
            let (spec, rule) = (spec(policy), Rule::Policy(policy));
            assert_eq!(judge(&spec, &exit(64)), Fail(Rule::NeverCode));
            assert_eq!(judge(&spec, &exit(75)), Again(Rule::AlwaysCode));
            assert_eq!(judge(&spec, &missing), Fail(Rule::NotRecoverable));
            let failed = if policy == Restart::Never { Fail(rule) } else { Again(rule) };
            for ending in [
                exit(3),
                Exit::signal(11).into(),
                Exit::GuestPanic { line: String::new() }.into(),
                Exit::Unknown.into(),
                busy.clone(),
            ] {
                assert_eq!(judge(&spec, &ending), failed, "{policy:?} {ending}");
            }
            let ended = match policy {
                Restart::Always | Restart::UnlessStopped => Again(rule),
                Restart::OnFailure | Restart::Never => Complete(rule),
            };
            assert_eq!(judge(&spec, &exit(0)), ended);
            assert_eq!(judge(&spec, &exit(10)), ended);
        }
    }
}
