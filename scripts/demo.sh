#!/bin/sh
# The first minute by itself: boots two microVMs under supervision, kills one from outside, sees it come back, stops.
# Ends with 0 only when all of it really happened.
set -eu
cd "$(dirname "$0")/.."

bin=$PWD/target/debug
dir=$(mktemp -d /tmp/pepita-demo.XXXXXX)
export PEPITA_RUN_DIR="$dir/run" PEPITACTL_SOCKET="$dir/control.sock"
supervisor= events= deadline=

say() { printf '\n==> %s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
now() { date +%s%3N; }

# Processes of the demo's VMs: their current directory is in the run directory.
processes() {
    for link in /proc/[0-9]*/cwd; do
        case $(readlink "$link" 2>/dev/null) in "$dir"/*) basename "${link%/cwd}" ;; esac
    done
}

end() {
    code=$?
    trap - EXIT INT TERM
    for pid in $deadline $events $supervisor; do kill "$pid" 2>/dev/null || :; done
    [ -z "$supervisor" ] || wait "$supervisor" 2>/dev/null || :
    for vm in $("$bin/pepita" list --format name 2>/dev/null); do
        "$bin/pepita" destroy --force --name "$vm" || :
    done
    rm -rf "$dir"
    exit $code
}
trap end EXIT
trap 'exit 130' INT
trap 'die "this took longer than a minute"' TERM
(sleep 60 && kill -TERM $$) >/dev/null 2>&1 &
deadline=$!

# The quickstart with files of its own, so that a `make run` beside it is not disturbed.
sed -e "s#\"\.\./\.guest/run/#\"$dir/#" -e "s#\"\.\./\.guest/#\"$PWD/.guest/#" config/quickstart.toml >"$dir/quickstart.toml"

# A key of one event or one VM, of JSON with one object a line.
key() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }
pid_of() { "$bin/pepitactl" status --json | tr '{' '\n' | grep "\"name\":\"$1\"" | key vmm_pid; }

# Reads events until one of alpha has this phase; prints its time.
alpha_is() {
    while read -r event <&3; do
        case $event in *'"event":"vm"'*) ;; *) continue ;; esac
        [ "$(echo "$event" | key vm)" = alpha ] && [ "$(echo "$event" | key to)" = "$1" ] || continue
        echo "$event" | key time_ms
        return
    done
    return 1
}

say "pepitad boots the two microVMs of config/quickstart.toml (about a second each with emulation)"
began=$(now)
"$bin/pepitad" --config "$dir/quickstart.toml" &
supervisor=$!
"$bin/pepitactl" wait --timeout 50 || die "the microVMs did not come up"
ready=$(($(now) - began))

say "pepitactl status"
"$bin/pepitactl" status

victim=$(pid_of alpha)
say "kill -9 $victim: the VMM of alpha dies, as if it had crashed"
mkfifo "$dir/events"
"$bin/pepitactl" events --follow --json >"$dir/events" &
events=$!
exec 3<"$dir/events"
alpha_is ready >/dev/null || die "no events"
killed=$(now)
kill -9 "$victim"
noticed=$(alpha_is backoff) || die "nobody noticed"
again=$(alpha_is ready) || die "alpha did not come back"
exec 3<&-
[ "$(pid_of alpha)" != "$victim" ] || die "alpha is not a new process"

say "pepitactl status: alpha is back, beta was not touched"
"$bin/pepitactl" status

say "SIGTERM: pepitad stops them in order, last started first"
stopped=$(now)
kill -TERM "$supervisor"
wait "$supervisor" || die "pepitad ended with $?"
supervisor=
stopped=$(($(now) - stopped))

left=$("$bin/pepita" list --format name)
[ -z "$left" ] || die "left behind: $left"
left=$(processes)
[ -z "$left" ] || die "processes left behind: $left"

say "Nothing is left: no VM, no process. Measured:"
printf '    %-42s %6s ms\n' "start of pepitad -> both ready" "$ready" \
    "kill -9 -> noticed" "$((noticed - killed))" \
    "kill -9 -> ready again (1 s of it backoff)" "$((again - killed))" \
    "SIGTERM -> everything stopped" "$stopped"
