#!/bin/sh
# Builds the small guest kernel .guest/vmlinux-small from the source of Debian's kernel and config/kernel.config. The
# compiler and the tools that a build lacks are installed as Debian packages; the source and the build go to a temporary
# folder below $TMPDIR (/var/tmp) that is removed. A kernel that is newer than this script and the configuration stays.
set -eu
cd "$(dirname "$0")/.."

SOURCE=linux-source-6.1
# What source and build take at their most, in MiB.
SPACE=1500

fragment=$PWD/config/kernel.config
out=$PWD/.guest/vmlinux-small

me=kernel
. scripts/apt.sh

[ "$(uname -m)" = x86_64 ] || die "microVMs of this project run on x86_64, this is $(uname -m)"
if [ -f "$out" ] && [ "$out" -nt "$fragment" ] && [ "$out" -nt scripts/kernel.sh ]; then
    say "$out is up to date; remove it to build it again, for example from a newer source"
    exit 0
fi

# --- What a build needs ----------------------------------------------------------------------------------------------
missing=
for pair in gcc:gcc make:make ld:binutils strip:binutils flex:flex bison:bison bc:bc xz:xz-utils perl:perl; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair#*:}"
done
# objtool, a part of the build, reads object files by it.
[ -f /usr/include/gelf.h ] || missing="$missing libelf-dev"
# shellcheck disable=SC2086 # The names are words.
install_packages $missing

# --- The source --------------------------------------------------------------------------------------------------------
for tool in apt-get dpkg-deb; do
    command -v "$tool" >/dev/null 2>&1 || die "no $tool: the source of the kernel is Debian's package $SOURCE"
done
began=$(date +%s)
dir=$(mktemp -d "${TMPDIR:-/var/tmp}/pepita-kernel.XXXXXX") || die "no temporary folder: set TMPDIR"
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
free=$(df -Pm "$dir" | awk 'NR == 2 { print $4 }')
[ "$free" -ge "$SPACE" ] || die "$dir has $free MiB left, and a build takes $SPACE MiB: set TMPDIR to another disk"
say "downloading the source of the kernel ($SOURCE, 140 MB)"
# apt-get downloads as another user where it can.
chmod 755 "$dir"
download_packages "$dir" "$SOURCE"
say "unpacking the source"
# Without documents and the code of other machines. Their Kconfig files stay, which the configuration reads.
dpkg-deb --fsys-tarfile "$dir/$SOURCE"_*.deb | tar -xO "./usr/src/$SOURCE.tar.xz" | tar -xJ -C "$dir" \
    --exclude="$SOURCE/Documentation/*/*" --exclude="$SOURCE/arch/[a-w]*/[abd-z]*/*" \
    --exclude="$SOURCE/drivers/gpu/drm/amd/include/*" --exclude="$SOURCE/tools/testing/*" ||
    die "$SOURCE could not be unpacked"
rm -f "$dir/$SOURCE"_*.deb
source=$dir/$SOURCE
[ -f "$source/Makefile" ] || die "$SOURCE has no $SOURCE/Makefile"

# --- The configuration ---------------------------------------------------------------------------------------------------
# The same source gives the same kernel, wherever it is built.
export KBUILD_BUILD_USER=pepita KBUILD_BUILD_HOST=pepita
KBUILD_BUILD_TIMESTAMP=$(date -u -r "$source/Makefile")
export KBUILD_BUILD_TIMESTAMP
log=$dir/log
make -C "$source" KCONFIG_ALLCONFIG="$fragment" allnoconfig >"$log" 2>&1 || { tail -n 20 "$log" >&2; die "no configuration"; }
lost=$(grep '^CONFIG_' "$fragment" | grep -vxFf "$source/.config" || true)
if [ -n "$lost" ]; then
    printf '%s\n' "$lost" >&2
    die "$fragment: these lines are not in the final configuration; $SOURCE has no such option, or another one that it needs is off"
fi

# --- The kernel ----------------------------------------------------------------------------------------------------------
say "building the kernel ($(grep -c '=y$' "$source/.config") options; some minutes)"
nice -n 10 make -C "$source" -j"$(nproc)" vmlinux >"$log" 2>&1 &
make=$!
# An order to end that fails must not keep the folder: the shell would end at it.
trap 'kill "$make" 2>/dev/null || :; wait "$make" || :; exit 1' HUP INT TERM
while kill -0 "$make" 2>/dev/null; do
    sleep 5
    [ ! -t 2 ] || printf '\r    %s files' "$(grep -c ' CC \| AS ' "$log")" >&2
done
[ ! -t 2 ] || printf '\n' >&2
wait "$make" || { grep -iA 5 'error' "$log" | head -n 20 >&2; die "the kernel could not be built"; }
mkdir -p .guest
strip -o "$out.part" "$source/vmlinux" || die "the kernel could not be stripped"
cp "$source/.config" "$out.config"
release=$(make -s -C "$source" kernelrelease)
space=$(du -sm "$dir" | cut -f 1)
mv "$out.part" "$out"
# A clock that was set back must not make it older than its configuration.
touch "$out"
say "$out: Linux $release, $(($(wc -c <"$out") / 1024)) KiB; it took $(($(date +%s) - began)) s and $space MiB below ${dir%/*}, which are free again"
