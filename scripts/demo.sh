#!/bin/sh
# Boots two microVMs under supervision, kills the VMM of one, waits until that microVM is ready again, and stops both.
# Exits with 0 only when each step was observed.
set -eu
cd "$(dirname "$0")/.."

bin=$PWD/target/debug
dir=$(mktemp -d /tmp/pepita-demo.XXXXXX)
export PEPITA_RUN_DIR="$dir/run" PEPITACTL_SOCKET="$dir/control.sock"
supervisor= events= deadline=

say() { printf '\n==> %s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }
now() { date +%s%3N; }

# Prints the processes of the demo's VMs: their current directory lies in the run directory.
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
trap 'die "not finished after 60 s"' TERM
(sleep 60 && kill -TERM $$) >/dev/null 2>&1 &
deadline=$!

# A copy of the quickstart with its own run and state directories, so that `make run` can run at the same time.
sed -e "s#\"\.\./\.guest/run/#\"$dir/#" -e "s#\"\.\./\.guest/#\"$PWD/.guest/#" config/quickstart.toml >"$dir/quickstart.toml"

# Prints the value of a key, from JSON with one object a line.
key() { sed -n "s/.*\"$1\":\"\{0,1\}\([^\",}]*\).*/\1/p"; }
pid_of() { "$bin/pepitactl" status --json | tr '{' '\n' | grep "\"name\":\"$1\"" | key vmm_pid; }

# Reads events until alpha is in this phase, and prints the time of the event in ms since the epoch.
alpha_is() {
    while read -r event <&3; do
        case $event in *'"event":"vm"'*) ;; *) continue ;; esac
        [ "$(echo "$event" | key vm)" = alpha ] && [ "$(echo "$event" | key to)" = "$1" ] || continue
        echo "$event" | key time_ms
        return
    done
    return 1
}

say "pepitad boots the two microVMs of config/quickstart.toml (about one second each without KVM)"
began=$(now)
"$bin/pepitad" --config "$dir/quickstart.toml" &
supervisor=$!
"$bin/pepitactl" wait --timeout 50 || die "the microVMs did not come up"
ready=$(($(now) - began))

say "pepitactl status"
"$bin/pepitactl" status

victim=$(pid_of alpha)
say "kill -9 $victim: the VMM of alpha dies as in a crash"
mkfifo "$dir/events"
"$bin/pepitactl" events --follow --json >"$dir/events" &
events=$!
exec 3<"$dir/events"
alpha_is ready >/dev/null || die "pepitactl printed no events"
killed=$(now)
kill -9 "$victim"
noticed=$(alpha_is backoff) || die "the end of alpha was not reported"
again=$(alpha_is ready) || die "alpha did not become ready again"
exec 3<&-
[ "$(pid_of alpha)" != "$victim" ] || die "alpha still has its former VMM"

say "pepitactl status: alpha was restarted, beta was not"
"$bin/pepitactl" status

say "SIGTERM: pepitad stops the microVMs in order, the one started last first"
stopped=$(now)
kill -TERM "$supervisor"
wait "$supervisor" || die "pepitad ended with $?"
supervisor=
stopped=$(($(now) - stopped))

left=$("$bin/pepita" list --format name)
[ -z "$left" ] || die "VMs are left: $left"
left=$(processes)
[ -z "$left" ] || die "processes are left: $left"

say "No VM and no process is left. Measured:"
printf '    %-42s %6s ms\n' "start of pepitad -> both ready" "$ready" \
    "kill -9 -> reported" "$((noticed - killed))" \
    "kill -9 -> ready again (1 s is backoff)" "$((again - killed))" \
    "SIGTERM -> everything stopped" "$stopped"
