#!/usr/bin/env bash
# Makes the golden vault of today's format: tests/vaults/v1-everything.flint, small, with as much in it as the program
# can write, and beside it what has to be listed and read from it, snapshot by snapshot.
#
#   tools/golden_vault.sh FLINT-PIPE [DIR]      DIR: where it goes, tests/vaults by default
#
# FLINT-PIPE is a release build. A vault that a release has written is never written anew: this is for the first one of
# a format, and before a release. Needs root for owners and devices, python3, and a file system with extended attributes.
set -euo pipefail

flint=$(realpath "$1")
into=$(realpath "${2:-$(dirname "${BASH_SOURCE[0]}")/../tests/vaults}")
name=v1-everything
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/flint-pipe-golden.XXXXXX")
trap 'rm -rf -- "$scratch"' EXIT
vault=$scratch/$name.flint
export FLINT_PASSWORD='correct horse' TZ=UTC
mkdir -p "$scratch/tree"
cd "$scratch/tree"

# What the program does not know yet is left out, and said.
knows() { "$flint" help "$1" 2>/dev/null | grep -e "$2" >/dev/null; }

add() { "$flint" add -v "$vault" "$@" >/dev/null; }

# Notes what snapshot $1 has to hold: the listing, and the digests of the files as they were stored.
note() {
    "$flint" list -v "$vault" --at "$1" --json | python3 -c '
import base64, hashlib, json, os, sys
number, kept = int(sys.argv[1]), sys.argv[2]
digests = json.load(open(kept)) if os.path.exists(kept) else {}
for line in sys.stdin:
    entry = json.loads(line)
    path = base64.b64decode(entry["path_bytes"]) if "path_bytes" in entry else os.fsencode(entry["path"])
    expected = {"snapshot": number, "entry": entry}
    if entry["type"] == "file":
        # What is not in the tree any more was stored by an earlier run.
        if os.path.isfile(path) and not os.path.islink(path):
            digests[path.hex()] = hashlib.sha256(open(path, "rb").read()).hexdigest()
        expected["sha256"], expected["path_hex"] = digests[path.hex()], path.hex()
    print(json.dumps(expected, ensure_ascii=False, separators=(",", ":")))
json.dump(digests, open(kept, "w"))
' "$1" "$scratch/digests" >>"$scratch/$name.json"
}

# Files with contents of python3 -c: the same every time.
fill() { python3 -c "import sys; sys.stdout.buffer.write($2)" >"$1"; }

create=(create -v "$vault")
# As little as a new vault's key derivation may cost: tests open it often.
if knows create --kdf-memory; then create+=(--kdf-memory 19M --kdf-time 2); else echo 'note: without --kdf-memory'; fi
"$flint" "${create[@]}" >/dev/null

# Snapshot 1: every kind of entry.
mkdir -p docs/deep/er empty
printf 'hello, vault\n' >docs/hello
printf '' >docs/nothing
fill docs/deep/er/text '"".join(f"line {i}\n" for i in range(3000)).encode()'
fill docs/noise 'b"".join(__import__("hashlib").sha256(b"%d" % i).digest() for i in range(128))'
fill chunked 'b"".join(b"%063d\n" % (i // 16) for i in range(40000))'
ln docs/hello docs/deep/hello-again
ln docs/hello hello-too
ln -s docs/hello link
ln -s ../nowhere docs/dangling
mkfifo pipe
mkdir $'names \xff'
printf 'latin-1\n' >$'names \xff/\xe9t\xe9'
printf 'newline\n' >$'names \xff/a\nb'
printf 'sorts behind docs/\n' >docs.txt
truncate -s 1M hole
printf 'begin' >holes
truncate -s 70000 holes
printf 'end' >>holes
# So many extents that they go into an overflow block.
python3 - islands <<'PYTHON'
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o644)
for i in range(2500):
    os.pwrite(fd, b"island\n" * 585, i * 8192)
PYTHON
python3 -c 'import os; os.setxattr("docs/hello", "user.comment", b"a value"); os.setxattr("docs", "user.empty", b"")'
if ((EUID == 0)); then
    chown 1234:5678 docs/noise
    mknod null c 1 3
    mknod loop b 7 0
else
    echo 'note: without owners and devices, which need root'
fi
chmod 4711 docs/nothing
chmod 1777 empty
find . -depth -exec touch -h -d '2024-02-29 12:34:56.789012345' {} +
touch -h -d '1969-12-31 23:59:58.5' docs/deep/er/text
add -s . --chunk-size 1M
note 1

# Snapshot 2: stored as it is; a file becomes a directory, a directory a file; an entry without its parents.
rm -r hello-too empty
mkdir hello-too
printf 'was a file\n' >hello-too/inside
printf 'was a directory\n' >empty
printf 'orphan\n' >docs/deep/er/orphan
find hello-too empty docs/deep/er/orphan -depth -exec touch -h -d '2025-01-01 00:00:00' {} +
add -s hello-too -s empty -s docs/deep/er/orphan --level store

# Snapshots 3 to 33: a full index is made once there are 32 deltas. What they hold is not noted, to keep the list short:
# the next one holds it all.
for ((next = 3; next <= 33; next++)); do
    # A new file: the other names of the old one keep what they have.
    rm docs/hello
    printf 'hello %d\n' "$next" >docs/hello
    touch -d "2025-02-02 02:02:02.0000000$next" docs/hello
    add -s docs/hello
done

# Deletes, and replacements of subtrees.
if knows remove --vault; then
    "$flint" remove -v "$vault" -t docs/deep >/dev/null
    note "$((next++))"
else
    echo 'note: without remove'
fi
if knows add --mirror; then
    rm -r $'names \xff'
    printf 'new\n' >docs/new
    touch -d '2025-03-03 03:03:03' docs/new docs
    add -s . --mirror
    note "$((next++))"
else
    echo 'note: without --mirror'
fi

# Then one more delta, a symlink's place taken by a file.
rm link
printf 'was a symlink\n' >link
touch -d '2025-04-04 04:04:04' link
add -s link
note "$((next++))"

"$flint" verify -v "$vault" >/dev/null
# Extents are taken generously, and what is not needed of them is given back; holes are not, where it is copied.
mkdir -p "$into"
cp --sparse=always "$vault" "$scratch/$name.json" "$into/"
stat -c '%s bytes: %n' "$into/$name.flint" "$into/$name.json"
