#!/usr/bin/env python3
"""How does the rate of packing go with the size of what comes out? A picture: levels of flint-pipe beside other tools.

    tools/compare/levels.py FLINT-PIPE TREE COMPARE.json OUT.svg [--levels N,N,...] [--turns N]

Packs TREE at each level (default: -5, -3, -1, 1, 2, 3, 4, 5, 6, 7, 9, 12, 15, 19), the median of the turns each, and draws it
beside what tools/compare has measured of the others on the corpus of that name (its --json). The figures are printed, too.
Python 3.11 and matplotlib.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

sys.dont_write_bytecode = True

import matplotlib  # noqa: E402

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

import contenders  # noqa: E402
import corpora  # noqa: E402
from clock import run  # noqa: E402


def measure(options, level, size):
    """Rate in MB/s and output in MB, medians."""
    rates, outputs = [], []
    for _ in range(options.turns):
        with tempfile.TemporaryDirectory(prefix="flint-pipe-levels.", dir=options.work) as directory:
            archive = pathlib.Path(directory) / "vault"
            command = [options.flint_pipe, "add", "-v", archive, "-s", options.tree.name, "--progress=never", "-l", level]
            done = run([[str(word) for word in command]], cwd=options.tree.parent,
                       env=contenders.environment(directory))
            rates.append(size / 1e6 / done.wall)
            outputs.append(archive.stat().st_size / 1e6)
    return statistics.median(rates), statistics.median(outputs)


def peers(figures, corpus):
    """(name, rate, output) of each tool, the sync counted for those that do not sync."""
    for found in figures["corpora"]:
        if found["name"] != corpus:
            continue
        for tool, runs in found["figures"]["pack"].items():
            syncs = tool in found["syncing"]
            seconds = statistics.median(run["wall"] + (0 if syncs else run["sync"]) for run in runs)
            if tool not in ("flint-pipe", "tar"):
                output = statistics.median(found["figures"]["output"][tool]) / 1e6
                yield tool, found["bytes"] / 1e6 / seconds, output


def main():
    """Measures and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flint_pipe", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("tree", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("compare", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--levels", default="-5,-3,-1,1,2,3,4,5,6,7,9,12,15,19")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("/var/tmp"))
    options = parser.parse_args()
    size, _ = corpora.size(options.tree)
    levels = []
    for level in options.levels.split(","):
        rate, output = measure(options, level, size)
        levels.append((level, rate, output))
        print(f"| {level} | {rate:.0f} | {output:.1f} |", flush=True)
    others = list(peers(json.loads(options.compare.read_text(encoding="utf-8")), options.tree.name))

    plt.rcParams.update({"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "flint-pipe"})
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    axes.plot([output for _, _, output in levels], [rate for _, rate, _ in levels], "o-", color="#b3541e", label="flint-pipe")
    for level, rate, output in levels:
        axes.annotate(level, (output, rate), textcoords="offset points", xytext=(4, 5), color="#b3541e")
    axes.plot([output for *_, output in others], [rate for _, rate, _ in others], "s", color="#33658a", label="others")
    for name, rate, output in others:
        axes.annotate(name, (output, rate), textcoords="offset points", xytext=(5, -10), color="#33658a")
    axes.set_yscale("log")
    axes.set_xlabel("output, MB (left is better)")
    axes.set_ylabel("packing, MB/s of content (up is better)")
    axes.set_title(f"{options.tree.name}: {size / 1e6:.0f} MB, {len(os.sched_getaffinity(0))} cores")
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    figure.savefig(options.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
