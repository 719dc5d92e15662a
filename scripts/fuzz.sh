#!/bin/sh
# Fuzzes the parsers of foreign bytes with libFuzzer: fuzz.sh SECONDS|runs=N [TARGET…], for each target (all without names). What
# libFuzzer has learnt is kept in target/fuzz/corpus, a finding in target/fuzz/findings, and each run adds a line to
# target/fuzz/inputs.tsv. PEPITA_FUZZ_PROFILE=smoke builds without optimisation, which is quicker for a short run.
set -eu
cd "$(dirname "$0")/.."

die() { printf 'fuzz: %s\n' "$*" >&2; exit 1; }
profile=${PEPITA_FUZZ_PROFILE:-release}
number=${1:-}
case ${number#runs=} in
'' | *[!0-9]*) die "fuzz.sh SECONDS|runs=N [TARGET…]" ;;
esac
case $number in
runs=*) limit=-$number ;;
*) limit=-max_total_time=$number ;;
esac
shift
command -v c++ >/dev/null 2>&1 || die "libFuzzer is C++: install a compiler for it (apt-get install g++)"

known=$(for file in fuzz/src/bin/*.rs; do basename "$file" .rs; done)
for target in "$@"; do
    [ -e "fuzz/src/bin/$target.rs" ] || die "no target $target; there are: $(echo $known)"
done
[ $# -gt 0 ] || set -- $known

# As cargo-fuzz has them. All crates are instrumented, also those that are used, but no build script: hence --target.
llvm="-sanitizer-coverage-level=4 -sanitizer-coverage-inline-8bit-counters -sanitizer-coverage-pc-table
      -sanitizer-coverage-trace-compares -simplifycfg-branch-fold-threshold=0"
flags=-Cpasses=sancov-module
for flag in $llvm; do flags="$flags -Cllvm-args=$flag"; done
host=$(rustc -vV | sed -n 's/^host: //p')
out=$PWD/target/fuzz
bins=$(for target in "$@"; do printf ' --bin %s' "$target"; done)
(cd fuzz && CARGO_TARGET_DIR=$out RUSTFLAGS=$flags cargo build --locked --quiet --profile "$profile" --target "$host" $bins)

table=$out/inputs.tsv
mkdir -p "$out/findings"
# Files are made and removed for each input of some targets: they stay in memory.
scratch=$(mktemp -d -p /dev/shm pepita-fuzz.XXXXXX 2>/dev/null || mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM
[ -s "$table" ] || printf 'target\tinputs\tseconds\tcoverage\tfindings\n' >"$table"
failed=
for target in "$@"; do
    mkdir -p "$out/corpus/$target"
    log=$out/$target.log begun=$(date +%s)
    # The limits of an input: 20 s, 2 GiB for the whole program (a target has a tighter bound of its own), 64 KiB long.
    if TMPDIR=$scratch "$out/$host/$profile/$target" "$limit" -timeout=20 -rss_limit_mb=2048 -max_len=65536 -len_control=20 \
        -print_final_stats=1 -verbosity=1 -artifact_prefix="$out/findings/$target-" \
        "$out/corpus/$target" "fuzz/seeds/$target" >"$log" 2>&1; then found=0; else found=1 failed="$failed $target"; fi
    inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    coverage=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
    printf '%s\t%s\t%s\t%s\t%s\n' "$target" "${inputs:-0}" "$(($(date +%s) - begun))" "${coverage:-0}" "$found" >>"$table"
    printf '%s: %s inputs, %s s, coverage %s\n' "$target" "${inputs:-0}" "$(($(date +%s) - begun))" "${coverage:-0}"
    [ $found = 0 ] || { printf '%s\n' "--- a finding; the whole log is $log" >&2; grep -A 8 -E 'panicked|ERROR|Test unit written' "$log" >&2; }
done
[ -z "$failed" ] || die "findings in$failed: the inputs are in target/fuzz/findings; mend, and keep a small one in fuzz/seeds"
