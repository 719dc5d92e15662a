#!/bin/sh
# Checks all crates against deny.toml with cargo-deny, which is compiled into .tools if the system has none (that takes minutes). The
# database of known weaknesses is fetched from GitHub. Without the internet use: deny.sh licenses bans sources
set -eu
cd "$(dirname "$0")/.."

PATH=$PWD/.tools/cargo-deny/bin:$PATH
command -v cargo-deny >/dev/null 2>&1 || {
    echo "==> compiling cargo-deny into .tools" >&2
    CARGO_TARGET_DIR=target/cargo-deny cargo install --quiet --locked --root .tools/cargo-deny cargo-deny
    rm -rf target/cargo-deny
}
exec cargo-deny --locked check "$@"
