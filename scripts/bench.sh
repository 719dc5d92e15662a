#!/bin/sh
# Runs all benches and makes the report of their figures: target/bench/{figures.jsonl,results.json,performance.md,*.svg}.
# `bench.sh smoke` runs each bench with the least numbers and without optimisation, into target/bench/smoke: it shows that
# the benches run and that each stores figures, nothing else.
set -u
cd "$(dirname "$0")/.."

die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

benches=$(for file in benches/*.rs crates/*/benches/*.rs; do basename "$file" .rs; done)
flags=$(for bench in $benches; do printf -- '--bench %s ' "$bench"; done)
case ${1:-all} in
all)
    profile=release option=--release out=$PWD/target/bench action=bench
    rm -f "$out"/*.*
    ;;
smoke)
    profile=debug option= out=$PWD/target/bench/smoke action=test
    rm -rf "$out"
    export PEPITA_SCALE_VMS=2,4 PEPITA_SCALE_SCRIPTED=10,100 PEPITA_SCALE_REST_SECONDS=1 PEPITA_COMMANDS_VMS=10
    export PEPITA_RESTART_KILLS=2 PEPITA_RESTART_VMS=2 PEPITA_JAIL_ROUNDS=1 PEPITA_OVERHEAD_RUNS=1
    export PEPITA_RECOVERY_KILLS=1 PEPITA_RECOVERY_REDIS_KILLS=1 PEPITA_RECOVERY_REST_SECONDS=1 PEPITA_RECOVERY_SPARES=1
    export PEPITA_IMAGES_BOOTS=1 PEPITA_IMAGES_SHARING=2 PEPITA_LINK_PINGS=10 PEPITA_LINK_MIB=1 PEPITA_LINK_STREAMS=1
    export PEPITA_PORTS_FIRST=3 PEPITA_PORTS_TRIPS=10 PEPITA_PORTS_MIB=1 PEPITA_PORTS_ROUNDS=1 PEPITA_PORTS_OPEN=8
    export PEPITA_PORTS_MINUTES=0 PEPITA_IDLE_ROUNDS=1 PEPITA_IDLE_PLAIN=2 PEPITA_IDLE_MICROVMS=1
    export PEPITA_IDLE_REST_SECONDS=1 PEPITA_IDLE_SETTLE_SECONDS=0 PEPITA_STARTUP_VERSIONS=2 PEPITA_STARTUP_RUNS=2
    ;;
*) die "\"$1\" is not known: nothing or \"smoke\" is right" ;;
esac
export PEPITA=$PWD/target/$profile/pepita PEPITA_BENCH_RESULTS=$out/figures.jsonl

mkdir -p "$out" || exit 1
# shellcheck disable=SC2086 # The flags are words.
cargo build --quiet $option --workspace --bins || exit 1
# shellcheck disable=SC2086
cargo $action --workspace --no-fail-fast $flags
status=$?
# The figures of the benches that have run are of use, also when another bench has failed.
# shellcheck disable=SC2086
cargo run --quiet $option -p pepita-supervisor --example bench_report -- "$PEPITA_BENCH_RESULTS" || status=1
for bench in $benches; do
    grep -q "\"bench\":\"$bench\"" "$PEPITA_BENCH_RESULTS" || { echo "bench: $bench has stored no figure" >&2; status=1; }
done
exit $status
