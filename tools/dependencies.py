#!/usr/bin/env python3
"""Which of the rules of deny.toml can be checked without cargo-deny and without a network?

Bans, sources and licences of every crate of a build with all features, those of the tests too, and second versions among
those that the program itself is made of. Says each crate that breaks a rule, and ends with 1 if there is one.
"""

import re
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def allowed(expression, licences):
    """Whether a crate under the SPDX `expression` may be used where `licences` are allowed."""
    # The old way to write OR.
    words = re.findall(r"[()]|[^()\s]+", expression.replace("/", " OR "))
    position = 0

    def operand():
        nonlocal position
        word = words[position]
        position += 1
        if word != "(":
            if words[position : position + 1] == ["WITH"]:
                word = f"{word} WITH {words[position + 1]}"
                position += 2
            return word in licences
        value = either()
        position += 1  # the closing parenthesis
        return value

    def chain(word, part, combine):
        nonlocal position
        values = [part()]
        while words[position : position + 1] == [word]:
            position += 1
            values.append(part())
        return combine(values)

    def both():
        return chain("AND", operand, all)

    def either():
        return chain("OR", both, any)

    return either()


def crates(targets, edges):
    """Each crate of a build with all features for one of `targets`: name and version to licence."""
    found = {}
    for target in targets:
        command = ["cargo", "tree", "--locked", "--all-features", "--prefix=none", "--no-dedupe", "--format={p}|{l}"]
        answer = subprocess.run(
            [*command, f"--edges={edges}", f"--target={target}"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
        for line in filter(None, answer.stdout.splitlines()):
            package, licence = line.split("|")
            name, version = package.split()[:2]
            found[name, version.removeprefix("v")] = licence
    return found


def broken(rules, lock):
    """What breaks a rule, a line each."""
    registries = {f"registry+{index}" for index in rules["sources"]["allow-registry"]}
    for package in lock["package"]:
        # What is in this repository has no source.
        if package.get("source") not in {None, *registries}:
            yield f"{package['name']} {package['version']} comes from {package['source']}"

    bans = {ban["crate"]: ban["reason"] for ban in rules["bans"]["deny"]}
    licences = set(rules["licenses"]["allow"])
    targets = rules["graph"]["targets"]
    for (name, version), licence in sorted(crates(targets, "normal,build,dev").items()):
        if name in bans:
            yield f"{name} {version} is banned: {bans[name]}"
        if not allowed(licence or "none", licences):
            yield f"{name} {version} has the licence {licence or 'of nobody'}"

    if rules["bans"]["multiple-versions"] == "deny":
        skipped = {skip["crate"].split("@")[0] for skip in rules["bans"].get("skip", [])}
        versions = defaultdict(list)
        for name, version in sorted(crates(targets, "normal,build")):
            versions[name].append(version)
        for name, several in versions.items():
            if len(several) > 1 and name not in skipped:
                yield f"{name} is there in several versions: {', '.join(several)}"


def main():
    rules, lock = (tomllib.loads((ROOT / name).read_text(encoding="utf-8")) for name in ("deny.toml", "Cargo.lock"))
    complaints = list(broken(rules, lock))
    print("\n".join(complaints) or "nothing against the rules")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
