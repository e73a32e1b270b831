"""What does the machine allow? The stages alone and bare programs, measured in the turn of the tools."""

import json
import os
import pathlib
import subprocess
import time

CORES = len(os.sched_getaffinity(0))


def _json(command, env):
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **env})
    return json.loads(done.stdout)


def _bare(comparison, *words):
    return _json([str(comparison.options.bare), *map(str, words)], comparison.env)


def _written(comparison, length):
    """Seconds to write so much, and to have it on the disk, by way of writing."""
    ways = {}
    for how in ("cached", "behind", "direct"):
        # On virtual machines memory that was just given back is cheap to take again, for a moment that no tool has.
        time.sleep(3)
        try:
            ways[how] = _bare(comparison, "write", comparison.work / "bare-write", length, how)
        except subprocess.CalledProcessError as error:
            print(f"  bare write {how}: {error.stderr.strip()}", flush=True)
    return ways


def _alone(comparison, *where):
    """CPU seconds that each stage alone takes for all of the content."""
    command = [str(comparison.options.flint_pipe), "profile", *map(str, where), "--roofline", "--json", "--time", "6s",
               "--progress=never"]
    roofline = _json(command, comparison.env)["roofline"]
    return {kernel["name"]: kernel["cpu_secs"] * comparison.bytes / max(kernel["bytes"], 1)
            for kernel in roofline["kernels"]}


def packing(comparison, archive):
    """Floors of packing: (name, seconds) each."""
    alone = _alone(comparison, "-s", comparison.tree)
    yield "pack: stages alone / cores", sum(alone.values()) / CORES
    yield "key derivation", _bare(comparison, "kdf")["kdf"]
    if comparison.many:
        # Twice, since the first finds cold caches.
        _bare(comparison, "walk", comparison.tree, "--threads", CORES)
        yield "walk", _bare(comparison, "walk", comparison.tree, "--threads", CORES)["walk"]
        yield "syncs of a commit", _bare(comparison, "sync", comparison.work)["sync"]
    ways = _written(comparison, pathlib.Path(archive).stat().st_size)
    for how, took in ways.items():
        yield f"write the archive, durable: {how}", took["durable"]
    yield "write the archive, durable: the fastest", min(took["durable"] for took in ways.values())


def restoring(comparison, archive):
    """Floors of the way back."""
    alone = _alone(comparison, "-v", archive)
    opened = alone["decrypt"] + alone["decompress"]
    yield "decrypt + decompress alone / cores", opened / CORES
    yield "read + decrypt + decompress alone / cores", (opened + alone["read"]) / CORES
    if comparison.many:
        out = comparison.scratch.fresh("bare", True) / "tree"
        tree = _bare(comparison, "tree", comparison.tree, out, "--threads", CORES)
        comparison.scratch.give_back()
        yield "create the tree", tree["tree"]
        yield "restore: (create + decrypt + decompress) / cores", (tree["tree_cpu"] + opened) / CORES
    else:
        ways = _written(comparison, comparison.bytes)
        for how, took in ways.items():
            yield f"write the content: {how}", took["written"]
        yield "write the content: the fastest", min(took["written"] for took in ways.values())
