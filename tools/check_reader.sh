#!/usr/bin/env bash
# Do the program and the second reader of its format agree? Runs tools/flint_reader.py and FLINT-PIPE over the golden
# vaults, the golden vectors and a fresh vault, and compares exit statuses, listings and what is restored.
#
#   tools/check_reader.sh FLINT-PIPE
#
# Needs rsync and Python 3.11 or later. The packages of tools/requirements.txt come into a virtual environment of their
# own where Python has them not; if they cannot be had, it says so and ends with 0: that is no fault of what is checked.
set -euo pipefail

flint=$(realpath "$1")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/flint-pipe-reader.XXXXXX")
trap 'rm -rf -- "$scratch"' EXIT
export PYTHONDONTWRITEBYTECODE=1

skip() {
    echo "note: the second reader was not run: $*"
    exit 0
}

python=python3
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || skip "it needs Python 3.11"
if ! "$python" -c 'import argon2, cryptography, zstandard' 2>"$scratch/log"; then
    "$python" -m venv "$scratch/venv" >"$scratch/log" 2>&1 || skip "python3 has no venv"
    python=$scratch/venv/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check -r tools/requirements.txt >"$scratch/log" 2>&1 ||
        skip "the packages of tools/requirements.txt cannot be had"
fi

reader() { "$python" tools/flint_reader.py "$@"; }

# Compares what both say of a snapshot ($2, or the newest) of vault $1, and what both restore of it.
same() {
    local vault=$1 at=() out=$scratch/out difference
    if [[ -n ${2-} ]]; then at=(--at "$2"); fi
    "$flint" list -v "$vault" --json "${at[@]}" >"$scratch/listed"
    reader list "$vault" --json "${at[@]}" | diff "$scratch/listed" - || return 1
    rm -rf "$out"
    "$flint" extract -v "$vault" -o "$out/one" "${at[@]}" >/dev/null
    reader extract "$vault" -o "$out/other" "${at[@]}" 2>/dev/null
    difference=$(rsync -aHAXSn --delete --checksum --itemize-changes "$out/one/" "$out/other/")
    if [[ -n $difference ]]; then
        echo "restored otherwise, from $vault ${at[*]}: $difference"
        return 1
    fi
}

# All snapshots of a vault.
whole() {
    local vault=$1 numbers number
    "$flint" verify -v "$vault" >/dev/null
    reader verify "$vault" 2>"$scratch/log" || { cat "$scratch/log"; return 1; }
    "$flint" list -v "$vault" --snapshots --json >"$scratch/listed"
    reader list "$vault" --snapshots --json | diff "$scratch/listed" - || return 1
    numbers=$("$python" -c 'import json, sys
print(*[json.loads(line)["snapshot"] for line in sys.stdin])' <"$scratch/listed")
    # Of many, the oldest and the newest.
    for number in $("$python" -c 'import sys; n = sys.argv[1:]; print(*(n[:3] + n[3:][-2:]))' $numbers); do
        same "$vault" "$number"
    done
    echo "agreed on $(wc -w <<<"$numbers") snapshots of $(basename "$vault")"
}

export FLINT_PASSWORD='correct horse'
for vault in tests/vaults/*.flint; do
    whole "$vault"
done

# The vectors: the reader in one process, since they are many.
"$python" - "$flint" "$scratch" <<'PYTHON'
import contextlib, glob, hashlib, io, os, shutil, subprocess, sys
sys.path.insert(0, "tools")
import flint_reader, vectors

flint, scratch = sys.argv[1:]
vault, out = f"{scratch}/vector.flint", f"{scratch}/out"
OPTIONS = {"verify": [], "list": ["--json"], "extract": ["-o", out]}


def reader(command):
    """Status, standard output and standard error of the second reader."""
    printed, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        status = flint_reader.main([command, vault, *OPTIONS[command]])
    return status, printed.getvalue(), said.getvalue()


def program(command):
    """The same of the program."""
    line = [flint, command, "-v", vault, *OPTIONS[command]]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=120)
    return ended.returncode, ended.stdout, ended.stderr


def digest(path):
    try:
        with open(os.path.join(out, path), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError as error:
        return error.strerror


files, wrong = sorted(glob.glob("tests/vectors/*")), []
for file in files:
    with open(file, encoding="utf-8") as source:
        image, fields = vectors.expand(source.read())
    expected = dict(fields)
    with open(vault, "wb") as sink:
        sink.write(image)
    os.environ["FLINT_PASSWORD"] = expected["password"]
    listing = "".join(value + "\n" for name, value in fields if name == "listing")
    content = [value.split(" ", 1) for name, value in fields if name == "content"]
    for run in (reader, program):
        for command in OPTIONS:
            shutil.rmtree(out, ignore_errors=True)
            status, printed, said = run(command)
            what = f"{expected['point']}: {command} of the {run.__name__}"
            # Owners are root's to give.
            due = {int(expected[command])} | ({3} if command == "extract" and os.geteuid() != 0 else set())
            if status not in due:
                wrong.append(f"{what} ends with {status}, not {expected[command]}: {said}")
            elif command == "list" and status == 0 and printed != listing:
                wrong.append(f"{what} is\n{printed}and not\n{listing}")
            elif command == "extract":
                wrong += [f"{what}: {path} is {digest(path)}" for right, path in content if digest(path) != right]
print("\n".join(wrong) or f"agreed on {len(files)} vectors")
sys.exit(bool(wrong))
PYTHON

# A fresh vault: this program's source, and files with everything that can be strange about a file; then changes.
tree=$scratch/tree
"$python" tools/corpus.py "$tree" --only text,links,names,attrs,kinds,wide --text-mib 2 --entries 300 >/dev/null
cp -a src "$tree/src"
truncate -s 100000 "$tree/hole"
printf 'end' >>"$tree/hole"
if command -v setfacl >/dev/null; then
    setfacl -m u:1:r,g:2:rw "$tree/hole" && setfacl -d -m u:3:rwx "$tree/src" || true
fi
vault=$scratch/fresh.flint
"$flint" add -v "$vault" -C "$tree" -s . --chunk-size 256K >/dev/null
printf 'changed\n' >>"$tree/hole"
rm -r "$tree/src/cli"
printf 'now a file\n' >"$tree/src/cli"
"$flint" add -v "$vault" -C "$tree" -s src -s hole >/dev/null
whole "$vault"
# The same after the vault was written anew: some files of its records are in no snapshot any more.
"$flint" remove -v "$vault" -t src/engine -t src/format >/dev/null
"$flint" add -v "$vault" -C "$tree" -s . --mirror >/dev/null
"$flint" compact -v "$vault" --keep-last 2 >/dev/null
whole "$vault"
"$flint" rekey -v "$vault" >/dev/null
whole "$vault"
"$flint" compact -v "$vault" --keep-last 1 >/dev/null
whole "$vault"
rm -rf "$scratch/out"
reader extract "$vault" -o "$scratch/out" 2>/dev/null
difference=$(rsync -aHAXSn --delete --checksum --itemize-changes "$tree/" "$scratch/out/")
if [[ -n $difference ]]; then
    echo "what the reader restored is not what was stored: ${difference:0:4000}"
    exit 1
fi
