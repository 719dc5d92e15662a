#!/bin/sh
# Fetches Erlang/OTP into .tools/otp: its `supervisor` is the oracle of tests/oracle. Only the tests need it; nothing is
# installed. A second run changes nothing.
set -eu
cd "$(dirname "$0")/.."

say() { printf '==> %s\n' "$*" >&2; }
die() { printf 'get-otp: %s\n' "$*" >&2; exit 1; }

# The package list is the system's: only an update of it needs root.
update() {
    say "updating the package lists (apt-get update)"
    if [ "$(id -u)" = 0 ]; then apt-get update -qq
    elif command -v sudo >/dev/null 2>&1; then sudo apt-get update -qq
    else die "'apt-get update' needs root: run it yourself, or install sudo"
    fi || die "apt-get update failed: is the network up?"
}

[ ! -d .tools/otp ] || exit 0
for tool in apt-get dpkg; do
    command -v "$tool" >/dev/null 2>&1 ||
        die "no $tool: put Erlang/OTP 25 or later where .tools/otp/usr/lib/erlang has its 'erts-*', 'lib' and 'bin'"
done
say "downloading Erlang/OTP (erlang-base)"
rm -rf .tools/otp.part
mkdir -p .tools/otp.part/deb
(cd .tools/otp.part/deb && { apt-get download -qq erlang-base 2>/dev/null || { update; apt-get download -qq erlang-base; }; }) ||
    die "erlang-base could not be downloaded"
dpkg -x .tools/otp.part/deb/*.deb .tools/otp.part || die "erlang-base could not be unpacked"
rm -rf .tools/otp.part/deb
mv .tools/otp.part .tools/otp
