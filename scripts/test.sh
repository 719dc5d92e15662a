#!/bin/sh
# Runs all tests, those with real microVMs included. Every test runs once: a failing test is fixed, or quarantined by
# name with #[ignore = "quarantined: why"], and this script lists the quarantined tests at the end.
set -u
cd "$(dirname "$0")/.."

cargo test --workspace --no-fail-fast
status=$?

quarantined=$(grep -rn --include='*.rs' -A 4 '#\[ignore = "quarantined' src crates supervisors tests | grep -E 'quarantined|fn ')
[ -z "$quarantined" ] || printf '\n==> Quarantined tests, which did not run:\n%s\n' "$quarantined"
exit "$status"
