"""What came of it: a table of the tools, a table of the targets, all figures as JSON."""

import dataclasses
import os
import platform
import statistics


def _values(runs, what):
    return [what(run) for run in runs]


def _spread(values, digits=2):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _packed(comparison, tool, run):
    """Seconds of packing; the sync counts for who does not sync."""
    return run.wall if tool in comparison.syncing else run.durable()


def _median(comparison, work, tool, what=lambda run: run.wall):
    runs = comparison.figures.get(work, {}).get(tool)
    return statistics.median(_values(runs, what)) if runs else None


def _floor(comparison, name):
    return _median(comparison, "floor", name, float)


def table(comparison):
    """Markdown: a row a tool, then what the machine allows, then the targets."""
    size = comparison.bytes / 1e6
    lines = [f"\n## {comparison.corpus}: {comparison.files} files, {size:.0f} MB, {comparison.options.turns} turns\n",
             "| tool | pack s | MB/s | CPU s | peak MiB (anonymous) | output MB | again s | restore s | CPU s | peak MiB | |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for tool, runs in comparison.figures["pack"].items():
        packed = [_packed(comparison, tool, run) for run in runs]
        again = comparison.figures.get("again", {}).get(tool)
        back = comparison.figures.get("restore", {}).get(tool)
        output = statistics.median(comparison.figures["output"][tool]) / 1e6
        peak = max(run.peak for run in runs) / 2**20, max(run.anon for run in runs) / 2**20
        lines.append(" | ".join([
            f"| {tool}", _spread(packed), f"{size / statistics.median(packed):.0f}",
            f"{statistics.median(run.cpu for run in runs):.1f}", f"{peak[0]:.0f} ({peak[1]:.0f})", f"{output:.1f}",
            _spread([run.wall for run in again]) if again else "-",
            _spread([run.wall for run in back]) if back else "-",
            f"{statistics.median(run.cpu for run in back):.1f}" if back else "-",
            f"{max(run.peak for run in back) / 2**20:.0f}" if back else "-",
            "!" * sum(run.disturbed for run in runs + (back or [])) + " |"]))
    lines += ["", "| flint-pipe | wall s | CPU s | peak MiB |", "|---|---|---|---|"]
    for work, tools in comparison.figures.items():
        runs = tools.get("flint-pipe")
        if runs and work not in ("pack", "again", "restore", "output"):
            lines.append(f"| {work} | {_spread(_values(runs, lambda run: run.wall), 3)} | "
                         f"{statistics.median(run.cpu for run in runs):.2f} | {max(run.peak for run in runs) / 2**20:.0f} |")
    lines += ["", "| what the machine allows | s |", "|---|---|"]
    lines += [f"| {name} | {_spread(values, 3)} |" for name, values in comparison.figures["floor"].items()]
    lines += ["", "| target | goal | measured | |", "|---|---|---|---|"]
    lines += [f"| {name} | {goal} | {measured} | {'met' if met else 'MISSED'} |"
              for name, goal, measured, met in targets(comparison)]
    if comparison.left_out:
        lines += ["", *(f"left out: {name}: {why}" for name, why in comparison.left_out.items())]
    return "\n".join(lines)


#: How many times as fast as each peer.
PEERS = {
    ("kernel", "pack"): {"tar zstd age": 1.3, "tar zstd openssl": 1.0, "restic": 3, "pna solid": 1.8, "pna": 1.8, "borg": 6,
                         "rustic": 6},
    ("kernel", "restore"): {"restic": 3, "tar zstd age": 1.6, "tar": 1.2},
    ("kernel", "again"): {"restic": 1, "borg": 1, "rustic": 1},
    ("noise", "pack"): {"restic": 3, "rustic": 3, "borg": 3, "tar zstd age": 2, "pna": 1.5, "pna solid": 1.5},
    ("noise", "restore"): {"pna": 1, "pna solid": 1},
    ("text", "pack"): dict.fromkeys(["tar zstd age", "tar zstd openssl", "restic", "pna", "pna solid", "borg", "rustic"], 1.2),
    ("text", "restore"): {"pna": 1, "pna solid": 1},
}


def targets(comparison):
    """(what, goal, measured, met) of each target that belongs to the corpus."""
    def at_least(what, goal, figure):
        yield what, f">= {goal}", f"{figure:.3f}", figure >= goal

    def at_most(what, goal, figure, digits=3):
        yield what, f"<= {goal:.{digits}f}", f"{figure:.{digits}f}", figure <= goal

    corpus, median = comparison.corpus, lambda work, tool="flint-pipe": _median(comparison, work, tool)
    kdf, cores = _floor(comparison, "key derivation"), _floor(comparison, "pack: stages alone / cores")
    for (name, work), peers in PEERS.items():
        for peer, goal in peers.items() if name == corpus else ():
            runs = comparison.figures.get(work, {}).get(peer)
            if runs:
                theirs = statistics.median(_packed(comparison, peer, run) if work == "pack" else run.wall for run in runs)
                yield from at_least(f"{work}: times as fast as {peer}", goal, theirs / median(work))
    output = statistics.median(comparison.figures["output"]["flint-pipe"])
    if corpus == "kernel":
        yield from at_least("pack: of the roofline (key derivation not counted)", 0.85, cores / (median("pack") - kdf))
        age = comparison.figures["output"].get("tar zstd openssl")
        if age:
            yield from at_most("output MB, by tar | zstd -3", statistics.median(age) / 1e6, output / 1e6, 1)
        floor = _floor(comparison, "restore: (create + decrypt + decompress) / cores")
        yield from at_least("restore: of its roofline (key derivation not counted)", 0.85, floor / (median("restore") - kdf))
        walk, syncs = _floor(comparison, "walk"), _floor(comparison, "syncs of a commit")
        yield from at_most("again s, by 1.3 walk + key derivation + syncs + 0.03", 1.3 * walk + kdf + syncs + 0.03,
                           median("again"))
        yield from at_most("one file s, by key derivation + 0.05", kdf + 0.05, median("one file"))
        yield from at_most("list a directory s, by key derivation + 0.05", kdf + 0.05, median("list a directory"))
        yield from at_most("list all s, by key derivation + 0.3", kdf + 0.3, median("list all"))
    if corpus in ("noise", "text"):
        slower = max(cores, _floor(comparison, "write the archive, durable: the fastest"))
        yield from at_least("pack: of the slower of writing and cores", 0.85, slower / (median("pack") - kdf))
        slower = max(_floor(comparison, "read + decrypt + decompress alone / cores"),
                     _floor(comparison, "write the content: the fastest"))
        yield from at_least("restore: of the slower of writing and cores", 0.85, slower / (median("restore") - kdf))
    if corpus == "noise":
        yield from at_most("output by input", 1.0005, output / comparison.bytes, 5)
    opened = _floor(comparison, "decrypt + decompress alone / cores")
    yield from at_least("verify: of decrypt + decompress (key derivation not counted)", 0.9, opened / (median("verify") - kdf))
    peak = max(run.peak for work in ("pack", "again", "restore", "verify")
               for run in comparison.figures.get(work, {}).get("flint-pipe", [])) / 2**20
    yield from at_most("peak MiB", 256, peak, 0)
    yield from at_most("--memory 64M: times as long", 1.15, median("pack, 64M") / median("pack"))


def as_json(comparisons, versions):
    """Everything, for machines."""
    def plain(figure):
        return figure if isinstance(figure, float) else dataclasses.asdict(figure)
    return {
        "machine": {"cores": len(os.sched_getaffinity(0)), "system": platform.platform()},
        "versions": versions,
        "corpora": [{
            "name": comparison.corpus, "bytes": comparison.bytes, "files": comparison.files,
            "turns": comparison.options.turns, "left_out": comparison.left_out, "syncing": sorted(comparison.syncing),
            "figures": {work: {tool: [plain(figure) for figure in figures] for tool, figures in tools.items()}
                        for work, tools in comparison.figures.items()},
            "targets": [dict(zip(("what", "goal", "measured", "met"), target)) for target in targets(comparison)],
        } for comparison in comparisons],
    }
