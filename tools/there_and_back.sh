#!/usr/bin/env bash
# Does one of everything come back as it was? Packs the tree of tools/everything.sh, verifies, restores it twice (the second
# time over the first), and compares with rsync and with tools/same_trees.py. As root all of it is done once more as a
# user, who makes and restores what a user may.
#
#   tools/there_and_back.sh FLINT-PIPE
#
# WITHOUT=PART... in the environment leaves parts of the tree out (WITHOUT='long xattrs'). Needs rsync and Python, some
# 50 MB in TMPDIR (default: /var/tmp), and a file system that has what is to be tested: tmpfs has no user.* attributes on
# older kernels.
set -euo pipefail

if (($# != 1)); then
    sed -n '2,/^set /{/^set /!p}' "$0" | cut -c3-
    exit 2
fi
flint=$(realpath -- "$1")
here=$(dirname -- "$(realpath -- "$0")")
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/flint-pipe-everything.XXXXXX")
readonly flint here scratch
clean_up() {
    # Some directories are closed to their own user.
    chmod -R u+rwx -- "$scratch"
    rm -rf -- "$scratch"
}
trap clean_up EXIT
trap 'exit 130' INT TERM HUP

# Another user may reach neither the repository nor the build.
if ((EUID == 0)); then
    chmod 0711 "$scratch"
    mkdir "$scratch/tools" "$scratch/user"
    cp -- "$here/everything.sh" "$here/there_and_back.sh" "$here/same_trees.py" "$flint" "$scratch/tools"
    chmod -R a+rX "$scratch/tools"
    chown 65534:65534 "$scratch/user"
fi

mkdir "$scratch/own"
cd "$scratch/own"
"$here/everything.sh" tree
for part in ${WITHOUT:-}; do
    rm -rf -- "tree/$part"
done
# What was left out has changed the directory that it was in.
touch --date='@1300000000.5' tree
export FLINT_PASSWORD='one of everything'
"$flint" add -v vault --chunk-size 256K -s tree
"$flint" verify -v vault
for turn in first second; do
    "$flint" extract -v vault -o out
    python3 "$here/same_trees.py" tree out/tree
    # rsync cannot reach what is in `long`.
    difference=$(rsync -aHAXSn --delete --checksum --itemize-changes --exclude='*.socket' --exclude=/long/ tree/ out/tree/)
    if [[ -n $difference ]]; then
        echo "what came back the $turn time differs: ${difference:0:4000}"
        exit 1
    fi
done

if ((EUID == 0)); then
    cd /
    env --unset=XDG_RUNTIME_DIR HOME=/nonexistent TMPDIR="$scratch/user" \
        setpriv --reuid=65534 --regid=65534 --clear-groups \
        "$scratch/tools/there_and_back.sh" "$scratch/tools/$(basename -- "$flint")"
fi
