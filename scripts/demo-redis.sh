#!/bin/sh
# Runs redis in a microVM with a published port and a disk, lets a client write to it without a pause, kills the VMM three
# times, and asks the client what it met. Exits with 0 only when no connection was refused and no acknowledged write is lost.
set -eu
cd "$(dirname "$0")/.."

bin=$PWD/target/debug
dir=$(mktemp -d /tmp/pepita-demo.XXXXXX)
export PEPITA_RUN_DIR="$dir/run" PEPITA_DATA_DIR="$dir/data" PEPITACTL_SOCKET="$dir/redis.sock"
supervisor= events= writer= deadline=
KILLS=3

say() { printf '\n==> %s\n' "$*"; }
die() { printf 'demo-redis: %s\n' "$*" >&2; exit 1; }

end() {
    code=$?
    trap - EXIT INT TERM
    for pid in $deadline $writer $events $supervisor; do kill "$pid" 2>/dev/null || :; done
    [ -z "$supervisor" ] || wait "$supervisor" 2>/dev/null || :
    for vm in $("$bin/pepita" list --format name 2>/dev/null); do
        "$bin/pepita" destroy --force --name "$vm" || :
    done
    rm -rf "$dir"
    exit $code
}
trap end EXIT
trap 'exit 130' INT
trap 'die "not finished after 110 s"' TERM
(sleep 110 && kill -TERM $$) >/dev/null 2>&1 &
deadline=$!

# A port that nobody listens on, so that a redis of this machine is not disturbed.
port=6379
while grep -qi "^ *[0-9]*: [0-9A-F]*:$(printf %04X $port) [0-9A-F:]* 0A" /proc/net/tcp /proc/net/tcp6; do port=$((port + 1)); done
sed -e "s#\"\.\./\.guest/run/#\"$dir/#" -e "s#\.\./\.guest/#$PWD/.guest/#" -e "s#127.0.0.1:6379:#127.0.0.1:$port:#" \
    config/redis.toml >"$dir/redis.toml"

# Prints the value of a key, from JSON with one object a line.
key() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }
vmm_pid() { "$bin/pepitactl" status --json | tr '{' '\n' | key vmm_pid; }

# Reads events until the VM is in this phase.
cache_is() {
    while read -r event <&3; do
        case $event in *'"event":"vm"'*) ;; *) continue ;; esac
        [ "$(echo "$event" | key to)" != "$1" ] || return 0
    done
    return 1
}

say "pepitad boots the redis of config/redis.toml at 127.0.0.1:$port"
"$bin/pepitad" --config "$dir/redis.toml" &
supervisor=$!
"$bin/pepitactl" wait --timeout 60 || die "redis did not come up"

say "a client writes without a pause; each write is on the disk before it is acknowledged (appendfsync always)"
mkfifo "$dir/events" "$dir/writing"
"$bin/pepitactl" events --follow --json >"$dir/events" &
events=$!
exec 3<"$dir/events"
cache_is ready || die "pepitactl printed no events"
"$bin/examples/redis_writer" "127.0.0.1:$port" <"$dir/writing" &
writer=$!
exec 4>"$dir/writing"

for number in $(seq $KILLS); do
    sleep 2
    victim=$(vmm_pid)
    say "kill -9 $victim: the VMM dies as in a crash ($number of $KILLS)"
    kill -9 "$victim"
    cache_is backoff || die "the end of the VM was not reported"
    cache_is ready || die "redis did not become ready again"
done
sleep 1
exec 3<&-

say "the client reads back every write that was acknowledged"
exec 4>&-
wait "$writer" || die "a connection was refused, or a write is lost"
writer=

say "SIGTERM: pepitad stops redis"
kill -TERM "$supervisor"
wait "$supervisor" || die "pepitad ended with $?"
supervisor=
left=$("$bin/pepita" list --format name)
[ -z "$left" ] || die "VMs are left: $left"
say "No VM is left. The promise was kept: no connection refused, no acknowledged write lost in $KILLS crashes."
