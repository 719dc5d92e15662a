//! Checks the limit of open files of this process, which the processes of a VM inherit.

use crate::error::{Result, call_error};
use pepita_wire::record::CallErrorKind;
use rustix::process::{Resource, getrlimit};

/// The smallest limit with which a VM gets a monitor. Monitor, VMM, back-end and agent have up to 21 descriptors each
/// before anybody has connected, so that with fewer the VM starts in part, or nobody can ask for it.
const SMALLEST: u64 = 32;

/// Refuses a limit with which the processes of a VM cannot do their work.
///
/// # Errors
/// When this process may have fewer open files than are needed.
pub fn check() -> Result<()> {
    refusal(getrlimit(Resource::Nofile).current)
        .map_or(Ok(()), |why| Err(call_error(CallErrorKind::TryAgain, why)))
}

/// Returns the reason why a limit is too small; `None` as the limit means that there is none.
fn refusal(limit: Option<u64>) -> Option<String> {
    let limit = limit.filter(|limit| *limit < SMALLEST)?;
    Some(format!(
        "a process may have {limit} open files here, and those of a VM need {SMALLEST}: raise the limit with `ulimit -n 4096` \
         (systemd: LimitNOFILE=) and try again"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_too_small_is_named_with_the_remedy() {
        for fits in [None, Some(SMALLEST), Some(1024)] {
            assert_eq!(refusal(fits), None);
        }
        let why = refusal(Some(SMALLEST - 1)).expect("it is too small");
        assert!(why.contains("31 open files") && why.contains("ulimit -n 4096"), "{why}");
    }
}
