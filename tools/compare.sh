#!/usr/bin/env bash
# Is flint-pipe faster than what people use instead? Packs and restores one tree with each tool, in the same minutes.
#
#   tools/compare.sh FLINT-PIPE TREE [TURNS]
#
# The tools: flint-pipe, `tar | zstd -3 -T2 | age`, and restic where it is installed. Three turns unless told otherwise,
# the tools one after another in each. A table at the end: medians with the least and the most.
#
# How it keeps from fooling itself, and where it cannot:
# - The source is read right before packing, the archive right before restoring: the page cache is warm for all alike.
# - Every restore goes into a fresh directory. Between turns files are emptied, not deleted: a file system steps over
#   inodes that were deleted lately, and everything after looks slow. All is deleted at the end.
# - flint-pipe and restic sync what they pack; the pipe does not. "sync s" is how long a `sync` took afterwards.
# - CPU seconds stand beside wall seconds. A turn in which other programs took more than a tenth of the processors is
#   shown with a `!`: repeat it, or do not quote it.
# - Peak memory is that of the process (/usr/bin/time); of a pipe, the sum of its processes' peaks.
# - age has a key here and no passphrase, so it is spared what the other two spend on deriving one from a password.
# - The last turn's trees are compared with the source; what differs is shown.
#
# Needs room in TMPDIR (default: /var/tmp) for three times the tree, on the file system that is to be measured.
set -euo pipefail

if (($# < 2 || $# > 3)); then
    sed -n '2,/^set /{/^set /!p}' "$0" | cut -c3-
    exit 2
fi
flint=$(realpath -- "$1")
tree=$(realpath -- "$2")
turns=${3:-3}
parent=$(dirname -- "$tree")
name=$(basename -- "$tree")
for tool in /usr/bin/time tar zstd age age-keygen rsync python3; do
    command -v "$tool" >/dev/null || { echo "missing: $tool"; exit 1; }
done
tools=(flint-pipe tar-zstd-age)
if command -v restic >/dev/null; then tools+=(restic); fi

work=$(mktemp -d "${TMPDIR:-/var/tmp}/flint-pipe-compare.XXXXXX")
trap 'rm -rf -- "$work"' EXIT
trap 'exit 130' INT TERM HUP
mkdir "$work/times"
export FLINT_PASSWORD=compare RESTIC_PASSWORD=compare RESTIC_CACHE_DIR="$work/cache"
age-keygen -o "$work/key" 2>/dev/null
recipient=$(age-keygen -y "$work/key")

# Runs a command and leaves its CPU seconds and peak memory in a file of its own.
timed() {
    /usr/bin/time --quiet -f '%U %S %M' -o "$(mktemp "$work/times/XXXXXX")" "$@"
}

pack() {
    case $1 in
        flint-pipe) timed "$flint" add -v "$2" -C "$parent" -s "$name" --progress=never ;;
        tar-zstd-age) timed tar -C "$parent" -cf - "$name" | timed zstd -q -3 -T2 | timed age -r "$recipient" -o "$2" ;;
        restic) (cd "$parent" && timed restic -q -r "$2" backup "$name") ;;
    esac
}

restore() {
    case $1 in
        flint-pipe) timed "$flint" extract -v "$2" -o "$3" --progress=never ;;
        tar-zstd-age) timed age -d -i "$work/key" "$2" | timed zstd -q -d | timed tar -C "$3" -xpf - ;;
        restic) timed restic -q -r "$2" restore latest --target "$3" ;;
    esac
}

# Seconds that all processors together were busy since the system started, in hundredths.
busy() {
    awk '/^cpu / { print $2 + $3 + $4 + $7 + $8 + $9 }' /proc/stat
}

# measure TOOL OPERATION ARCHIVE COMMAND...: one line of figures in $work/figures.
measure() {
    local tool=$1 operation=$2 archive=$3 began ended synced before after
    shift 3
    rm -f "$work"/times/*
    sync
    before=$(busy)
    began=$(date +%s%N)
    "$@" >"$work/log" 2>&1 || { echo "$tool cannot $operation:"; cat "$work/log"; exit 1; }
    ended=$(date +%s%N)
    after=$(busy)
    sync
    synced=$(date +%s%N)
    awk -v wall=$((ended - began)) -v sync=$((synced - ended)) -v busy=$((after - before)) \
        -v size="$(du -sb -- "$archive" | cut -f1)" -v cores="$(nproc)" -v label="$operation $tool" '
        { cpu += $1 + $2; peak += $3 }
        END {
            wall /= 1e9
            others = busy / 100 - cpu
            printf "%s %.3f %.3f %.1f %.2f %.3f %d\n", label, wall, cpu, peak / 1024, size / 1e6, sync / 1e9,
                (others > wall * cores / 10)
        }' "$work"/times/* | tee -a "$work/figures"
}

echo "operation tool wall-s cpu-s peak-MiB archive-MB sync-s disturbed"
for ((turn = 1; turn <= turns; turn++)); do
    for tool in "${tools[@]}"; do
        archive="$work/$tool$turn"
        if [[ $tool == restic ]]; then restic -q -r "$archive" init; fi
        tar -C "$parent" -cf - "$name" | cat >/dev/null
        measure "$tool" pack "$archive" pack "$tool" "$archive"
    done
    for tool in "${tools[@]}"; do
        archive="$work/$tool$turn"
        out="$work/$tool$turn.out"
        mkdir "$out"
        find "$archive" -type f -exec cat {} + >/dev/null
        measure "$tool" restore "$archive" restore "$tool" "$archive" "$out"
        if ((turn == turns)); then
            difference=$(rsync -aHSn --delete --checksum --itemize-changes "$tree/" "$out/$name/" | head -20)
            if [[ -n $difference ]]; then
                printf '%s restored something else:\n%s\n' "$tool" "$difference"
            fi
        fi
        find "$out" "$archive" -type f -exec truncate -s 0 {} +
    done
done

python3 - "$work/figures" "$(du -sb --apparent-size -- "$tree" | cut -f1)" "$turns" <<'PYTHON'
import collections, statistics, sys

runs = collections.defaultdict(list)
for line in open(sys.argv[1], encoding="ascii"):
    operation, tool, *figures = line.split()
    runs[operation, tool].append([float(figure) for figure in figures])
size = float(sys.argv[2]) / 1e6
print(f"\n{size:.1f} MB, {sys.argv[3]} turns: median (least to most)\n")
print("|  | wall s | MB/s | CPU s | peak MiB | archive MB | sync s | disturbed |")
print("|---|---|---|---|---|---|---|---|")
for (operation, tool), turns in sorted(runs.items()):
    def shown(column, digits):
        values = [turn[column] for turn in turns]
        return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
    rate = size / statistics.median(turn[0] for turn in turns)
    disturbed = "!" * sum(int(turn[5]) for turn in turns)
    print(f"| {operation}, {tool} | {shown(0, 2)} | {rate:.0f} | {shown(1, 2)} | {shown(2, 0)} | {shown(3, 1)} "
          f"| {shown(4, 2)} | {disturbed} |")
PYTHON
