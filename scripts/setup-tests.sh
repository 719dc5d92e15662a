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

# Container images as people make them, of Debian's packages: `umoci` writes an OCI layout, `skopeo` copies it, and
# `docker-registry` serves it on loopback.
fetch oci "install skopeo, umoci and docker-registry, and put links to them into .tools/oci/usr/bin" \
    skopeo umoci docker-registry libgpgme11 libassuan0 libgpg-error0 libdevmapper1.02.1 libselinux1 libudev1 libpcre2-8-0
fetch redis "put a root with redis-server, redis-cli and busybox into .tools/redis" \
    redis-server redis-tools libatomic1 libjemalloc2 liblua5.1-0 liblzf1 libssl3 libsystemd0 lua-cjson lua-bitop \
    libhiredis0.14 libc6 libgcc-s1 libstdc++6 liblzma5 libzstd1 liblz4-1 libcap2 libgcrypt20 libgpg-error0 busybox-static

# Makes the OCI layout .guest/images/redis with the image `7`: a lower layer with the user and a shell, an upper one with
# redis and a whiteout.
redis_image() {
    [ ! -d .guest/images/redis ] || return 0
    say "making the image of redis"
    work=.guest/images/work
    rm -rf "$work"
    mkdir -p "$work/base/bin" "$work/base/etc" "$work/base/data" "$work/base/tmp" "$work/base/lib64"
    cp .tools/redis/bin/busybox "$work/base/bin/busybox"
    for tool in sh cat ls id mount; do ln -s busybox "$work/base/bin/$tool"; done
    echo 'root:x:0:0:root:/root:/bin/sh
redis:x:999:999::/data:/bin/sh' >"$work/base/etc/passwd"
    echo 'root:x:0:
redis:x:999:' >"$work/base/etc/group"
    echo 'of the lower layer' >"$work/base/etc/removed"
    chmod 1777 "$work/base/tmp"
    mkdir -p "$work/upper/usr/bin" "$work/upper/etc"
    cp -a .tools/redis/lib .tools/redis/lib64 "$work/upper/"
    cp -a .tools/redis/usr/lib "$work/upper/usr/"
    cp -a .tools/redis/usr/bin/redis-* "$work/upper/usr/bin/"
    : >"$work/upper/etc/.wh.removed"
    tools=$PWD/.tools/oci
    image=$PWD/$work/layout
    umoci() { "$tools/usr/bin/umoci" "$@"; }
    umoci init --layout "$image"
    umoci new --image "$image:7"
    for layer in base upper; do
        tar -C "$work/$layer" --owner=0 --group=0 --numeric-owner --sort=name --mtime=@1 -cf "$work/$layer.tar" .
        umoci raw add-layer --image "$image:7" "$work/$layer.tar"
    done
    umoci config --image "$image:7" --config.entrypoint redis-server \
        --config.cmd --appendonly --config.cmd no --config.env PATH=/usr/bin:/bin --config.env GREETING=hello \
        --config.user redis --config.workingdir /data --config.stopsignal SIGINT --config.exposedports 6379/tcp \
        --architecture amd64 --os linux
    mv "$image" .guest/images/redis
    rm -rf "$work"
}
redis_image
