#!/bin/sh
# Fetches what only the tests need into .tools: Erlang/OTP, whose `supervisor` is the oracle of tests/oracle, and strace, with
# which tests make system calls fail. Nothing is installed. A second run changes nothing.
set -eu
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'setup-tests: %s\n' "$*" >&2; exit 1; }

# The package list is the system's: only an update of it needs root.
update() {
    say "updating the package lists (apt-get update)"
    if [ "$(id -u)" = 0 ]; then apt-get update -qq
    elif command -v sudo >/dev/null 2>&1; then sudo apt-get update -qq
    else die "'apt-get update' needs root: run it yourself, or install sudo"
    fi || die "apt-get update failed: is the network up?"
}

# Unpacks Debian packages into .tools/NAME. Arguments: the name, what to do by hand on another system, the packages.
fetch() {
    name=$1 by_hand=$2
    shift 2
    [ ! -d ".tools/$name" ] || return 0
    for tool in apt-get dpkg; do
        command -v "$tool" >/dev/null 2>&1 || die "no $tool: $by_hand"
    done
    say "downloading $*"
    part=.tools/$name.part
    rm -rf "$part"
    mkdir -p "$part/deb"
    (cd "$part/deb" && { apt-get download -qq "$@" 2>/dev/null || { update; apt-get download -qq "$@"; }; }) ||
        die "$* could not be downloaded"
    for deb in "$part"/deb/*.deb; do
        dpkg -x "$deb" "$part" || die "$deb could not be unpacked"
    done
    rm -rf "$part/deb"
    mv "$part" ".tools/$name"
}

fetch otp "put Erlang/OTP 25 or later where .tools/otp/usr/lib/erlang has its 'erts-*', 'lib' and 'bin'" erlang-base
command -v strace >/dev/null 2>&1 || fetch strace "install strace 6.1 or later" strace libunwind8
