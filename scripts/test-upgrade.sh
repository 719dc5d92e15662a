#!/bin/sh
# Builds the programs and the guest image of an older version from the history, in a folder of their own, and runs the upgrade tests
# with them.
set -eu
cd "$(dirname "$0")/.."

OLD=445d9af
TARGET=x86_64-unknown-linux-gnu
top=$PWD
dir=$top/target/upgrade

git cat-file -e "$OLD^{commit}" 2>/dev/null || {
    printf 'test-upgrade: commit %s is not in this checkout; fetch the whole history first (git fetch --unshallow)\n' "$OLD" >&2
    exit 1
}
if [ ! -f "$dir/ticker.cpio" ]; then
    printf '==> building the programs of %s\n' "$OLD" >&2
    rm -rf "$dir/source"
    mkdir -p "$dir/source"
    git archive "$OLD" | tar -x -C "$dir/source"
    (
        cd "$dir/source"
        CARGO_TARGET_DIR=$dir/build cargo build --quiet --locked --workspace --bins
        RUSTFLAGS="-C target-feature=+crt-static" cargo build --quiet --locked -p pepita-guest --profile guest \
            --target "$TARGET" --target-dir "$dir/static"
    )
    static=$dir/static/$TARGET/guest
    "$dir/build/debug/pepita" image build --agent "$static/daemonctl" --daemon "$static/ticker" \
        --kernel-package .guest/modules --output "$dir/part.cpio"
    mv "$dir/part.cpio" "$dir/ticker.cpio"
fi
# The old programs look for the vsock back-end beside their target folder.
ln -sfn "$top/.tools" "$dir/.tools"
PEPITA_OLD_BIN=$dir/build/debug PEPITA_OLD_IMAGE=$dir/ticker.cpio \
    cargo test -p pepita-supervisors --test programs upgrade -- --nocapture
