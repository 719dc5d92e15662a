#!/bin/sh
# Installs and builds what a fresh Debian 12 lacks: QEMU, a guest kernel, the vsock back-end, the static agent and the guest
# images. A second run changes nothing that is there already. Only Debian packages are installed outside this folder; the
# rest goes to .tools/, .guest/ and target/.
set -eu
cd "$(dirname "$0")/.."

BACKEND_VERSION=0.3.0
TARGET=x86_64-unknown-linux-gnu

me=setup
. scripts/apt.sh

# The first build takes minutes. On a terminal cargo shows how far it is.
quiet=--quiet
[ ! -t 2 ] || quiet=

[ "$(uname -m)" = x86_64 ] || die "microVMs of this project run on x86_64, this is $(uname -m)"
for tool in cargo cc; do
    command -v "$tool" >/dev/null 2>&1 || die "'$tool' is missing: install a Rust toolchain (rustup.rs) and a C compiler (apt-get install gcc)"
done

# --- Debian packages -------------------------------------------------------------------------------------------------
missing=
command -v qemu-system-x86_64 >/dev/null 2>&1 || missing="$missing qemu-system-x86"
[ -x /sbin/mke2fs ] || [ -x /usr/sbin/mke2fs ] || missing="$missing e2fsprogs"
# shellcheck disable=SC2086 # The names are words.
install_packages $missing

# --- The guest's kernel ----------------------------------------------------------------------------------------------
mkdir -p .guest .tools
# A folder of an older version lacks the module by which a guest's kernel tells the host of its panic, those of a network
# card and those of shares. Without them the guest still works, so a kernel that is there stays when none can be downloaded.
if [ ! -f .guest/vmlinuz ] || [ ! -f .guest/modules/pvpanic-mmio.ko ] || [ ! -f .guest/modules/virtio_net.ko ] ||
    [ ! -f .guest/modules/virtiofs.ko ]; then
    (
    command -v apt-get >/dev/null 2>&1 || die "no apt-get: put a kernel into .guest/vmlinuz and its modules into .guest/modules"
    name=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -n 1)
    if [ -z "$name" ] || ! apt-cache show "$name" >/dev/null 2>&1; then
        update
        name=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-.*\)/\1/p' | head -n 1)
    fi
    [ -n "$name" ] || die "apt has no package linux-image-cloud-amd64"
    say "downloading the guest's kernel ($name)"
    rm -rf .guest/deb
    mkdir -p .guest/deb
    download_packages .guest/deb "$name"
    dpkg -x .guest/deb/*.deb .guest/deb/unpacked || die "$name could not be unpacked"
    rm -rf .guest/modules
    mkdir -p .guest/modules
    {
    find .guest/deb/unpacked/lib/modules \( -path '*/drivers/virtio/*' -o -path '*/drivers/block/virtio_blk.ko' \
        -o -path '*/drivers/char/virtio_console.ko' -o -path '*/drivers/char/hw_random/*' -o -path '*/net/vmw_vsock/*' \
        -o -path '*/drivers/vhost/*' -o -path '*/drivers/net/virtio_net.ko' \
        -o -path '*/drivers/net/net_failover.ko' -o -path '*/net/core/failover.ko' -o -path '*/drivers/misc/pvpanic/*' -o -path '*/fs/overlayfs/*' \
        -o -path '*/fs/fuse/fuse.ko' -o -path '*/fs/fuse/virtiofs.ko' \) -name '*.ko' -exec cp {} .guest/modules/ \; &&
    mv .guest/deb/unpacked/boot/vmlinuz-* .guest/vmlinuz.part
    } || die "the kernel's files could not be copied"
    rm -rf .guest/deb
    mv .guest/vmlinuz.part .guest/vmlinuz
    ) || [ -f .guest/vmlinuz ] || exit 1
    [ -f .guest/modules/pvpanic-mmio.ko ] || say "without the module pvpanic-mmio a guest's panic is told as a reset"
fi

# --- The vsock back-end, for hosts whose kernel has no vhost_vsock ---------------------------------------------------
if [ ! -x .tools/bin/vhost-device-vsock ]; then
    say "building vhost-device-vsock $BACKEND_VERSION (once, about a minute)"
    # shellcheck disable=SC2086
    cargo install vhost-device-vsock --version "$BACKEND_VERSION" --locked --root .tools $quiet ||
        die "vhost-device-vsock could not be built"
fi

# --- The programs, the static agent, the images ----------------------------------------------------------------------
say "building the programs (cargo; the first time takes minutes)"
# shellcheck disable=SC2086
cargo build $quiet --workspace --bins
# --target keeps the flag away from build scripts and procedural macros.
# shellcheck disable=SC2086
RUSTFLAGS="-C target-feature=+crt-static" cargo build $quiet -p pepita-guest -p pepita-ticker --profile guest --target "$TARGET" \
    --target-dir target/static
agent=target/static/$TARGET/guest/daemonctl
ticker=target/static/$TARGET/guest/ticker
for image in .guest/ticker.cpio .guest/ticker.ext4; do
    if [ ! -f "$image" ] || [ "$agent" -nt "$image" ] || [ "$ticker" -nt "$image" ] ||
        [ target/debug/pepita -nt "$image" ] || [ .guest/modules -nt "$image" ]; then
        say "building $image"
        case $image in
        *.cpio) target/debug/pepita image build --agent "$agent" --daemon "$ticker" --kernel-package .guest/modules --output "$image" ;;
        *) target/debug/pepita image build --agent "$agent" --daemon "$ticker" --output "$image" ;;
        esac
    fi
done
ln -sf "../$agent" .guest/daemonctl
say "setup is complete"
