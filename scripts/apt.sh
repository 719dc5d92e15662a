# Functions with Debian packages, for the scripts that set things up. A script that reads this file names itself in $me before.
# shellcheck shell=sh

say() { printf '==> %s\n' "$*" >&2; }
die() { printf '%s: %s\n' "$me" "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else die "'$*' needs root: run it yourself, or install sudo"
    fi
}

# The package lists are the system's, so that their update needs root.
updated=
update() {
    [ -n "$updated" ] && return
    say "updating the package lists (apt-get update)"
    as_root apt-get update -qq || die "apt-get update failed: is the network up?"
    updated=yes
}

# Installs packages. Arguments: their names; without one nothing is done.
install_packages() {
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null 2>&1 || die "please install by hand: $* (this machine has no apt-get)"
    update
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        die "apt-get could not install: $*"
}

# Downloads packages into a folder, with newer lists if need be. Arguments: the folder, the names.
download_packages() {
    into=$1
    shift
    (cd "$into" && { apt-get download -qq "$@" 2>/dev/null || { updated=; update; apt-get download -qq "$@"; }; }) ||
        die "$* could not be downloaded"
}
