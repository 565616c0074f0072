#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
# Installs the Debian packages that are missing from the given sections of tools/packages.txt.
# usage: tools/setup.sh SECTION...
set -euo pipefail

list=$(dirname "$0")/packages.txt

fail() {
    echo "setup.sh: $*" >&2
    exit 1
}

[ $# -gt 0 ] || fail "usage: tools/setup.sh SECTION... (see $list)"
command -v dpkg-query >/dev/null ||
    fail "this is no Debian system; install what $list names by hand"

missing=()
for section in "$@"; do
    packages=$(awk -v wanted="[$section]" '
        /^\[/ { inside = $1 == wanted; next }
        inside && NF && !/^#/ { print $1 }' "$list")
    [ -n "$packages" ] || fail "$list has no section '$section'"
    for package in $packages; do
        state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || state=missing
        [ "$state" = installed ] || missing+=("$package")
    done
done
[ ${#missing[@]} -gt 0 ] || exit 0

mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
echo "Installing ${#missing[@]} missing Debian packages:"
for package in "${missing[@]}"; do
    awk -v name="$package" '$1 == name { print "  " $0; exit }' "$list"
done

as_root=()
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "not root and no sudo; install by hand: ${missing[*]}"
    as_root=(sudo)
fi
command -v apt-get >/dev/null || fail "no apt-get; install by hand: ${missing[*]}"

export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" apt-get -q -o Acquire::Retries=3 "$@" >"$log" 2>&1 </dev/null; }
if ! apt update || ! apt install -y --no-install-recommends "${missing[@]}"; then
    cat "$log" >&2
    fail "apt-get could not install: ${missing[*]}"
fi
