#!/usr/bin/env python3
"""Do tools that others wrote read what flint-pipe tells of a run? Reports, latencies, trace, metrics.

    tools/check_records.py FLINT-PIPE [--keep DIR]

Runs add, verify, extract and profile over a made tree with all files asked for, and then:
- the log of latencies by HdrHistogram's own port to Python (package hdrhistogram): each stage's count has to be that of
  the JSON report, and its percentiles near to it;
- the metrics by Prometheus' parser (package prometheus-client) and, where it is installed, by promtool;
- the trace: each track's spans are in order, do not overlap and lie within the run; items are those of the JSON report;
- the page in headless Chromium, at 1280 and 400 pixels, light and dark: no error, all charts drawn, every figure of the JSON
  report to be found, nothing wider than the window.

--keep DIR leaves the files, and the page's screenshots, there. What is not installed is skipped, and said: that is no fault
of what is checked. Packages come into a virtual environment of their own where Python has them not. Python 3.11.
"""

import argparse
import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True

PACKAGES = ["hdrhistogram==0.10.3", "prometheus-client==0.22.1"]
KINDS = ["service", "wait_input", "wait_output", "wait_budget"]


def note(text):
    """Says what could not be done."""
    print(f"note: check_records: {text}")


def provide(scratch):
    """Makes the packages importable; whether they are."""
    try:
        import hdrh.log, prometheus_client.parser  # noqa: E401,F401
        return True
    except ImportError:
        pass
    made = subprocess.run([sys.executable, "-m", "venv", scratch / "venv"], capture_output=True, check=False)
    if made.returncode == 0:
        pip = [scratch / "venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES]
        made = subprocess.run(pip, capture_output=True, check=False)
    if made.returncode != 0:
        return False
    os.execv(scratch / "venv/bin/python", [str(scratch / "venv/bin/python"), *sys.argv, "--scratch", str(scratch)])


def make_tree(tree):
    """Some large text, and some thousand small files; always the same."""
    state = 1
    (tree / "small").mkdir(parents=True)
    words = []
    for _ in range(400_000):
        state = (state * 6364136223846793005 + 1) % (1 << 64)
        words.append(f"{state >> 48:x} ")
    text = "".join(words).encode()
    (tree / "large").write_bytes(text * 24)
    for number in range(4000):
        (tree / "small" / f"{number:05}").write_bytes(text[number * 97:number * 97 + number % 3000])


def run(flint, directory, *words):
    """Runs the program, which has to succeed."""
    done = subprocess.run([flint, *map(str, words)], cwd=directory, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode != 0:
        sys.exit(f"{words} ended with {done.returncode}: {done.stderr}")
    return done


def check_hlog(path, stages):
    """The log has the counts and, nearly, the percentiles of the stages."""
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogReader

    total = collections.defaultdict(lambda: HdrHistogram(1, 3_600_000_000_000, 3))
    intervals = 0
    reader = HistogramLogReader(str(path), HdrHistogram(1, 3_600_000_000_000, 3))
    while (histogram := reader.get_next_interval_histogram()) is not None:
        intervals += 1
        total[histogram.get_tag()].add(histogram)
    wrong = []
    for stage, figures in stages.items():
        for kind in KINDS:
            expected = figures[f"{kind}_us"]
            found = total[f"{stage}.{kind}"]
            # The threads that list directories have figures of their own.
            if stage == "scan" and kind == "service":
                continue
            if found.get_total_count() != expected["count"]:
                wrong.append(f"{stage}.{kind}: {found.get_total_count()} of {expected['count']}")
            for percentile, name in [(50, "p50"), (99, "p99")] if expected["count"] else []:
                value = found.get_value_at_percentile(percentile) / 1000
                if abs(value - expected[name]) > 0.002 * expected[name] + 0.002:
                    wrong.append(f"{stage}.{kind}: {name} is {value} us, not {expected[name]}")
    seen = [tag for tag, histogram in total.items() if histogram.get_total_count()]
    print(f"{path.name}: {intervals} intervals of {len(seen)} tags")
    return [f"{path.name}: {words}" for words in wrong]


def check_metrics(path, report):
    """The metrics parse, and say what the report does."""
    from prometheus_client.parser import text_string_to_metric_families

    families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    samples = {(sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples}
    wrong = []
    by_name = lambda name: [value for key, value in samples.items() if key[0] == f"flint_pipe_{name}"]
    if by_name("exit_code") != [report["exit_code"]] or by_name("content_bytes") != [report["total_size"]]:
        wrong.append("exit code or size")
    if len(by_name("stage_workers")) != len(report["stages"]) or not by_name("last_success_timestamp_seconds"):
        wrong.append("stages or last success")
    print(f"{path.name}: {len(families)} metrics, {len(samples)} samples")
    if shutil.which("promtool"):
        done = subprocess.run(["promtool", "check", "metrics"], input=path.read_bytes(), capture_output=True, check=False)
        words = (done.stdout + done.stderr).decode().strip()
        print(f"{path.name}: promtool ends with {done.returncode} {words}")
        if done.returncode != 0:
            wrong.append(f"promtool: {words}")
    else:
        note("promtool is not installed")
    return [f"{path.name}: {words}" for words in wrong]


def check_trace(path, report):
    """The spans are what Chrome's format asks for, in order, and as many as the report has items."""
    trace = json.loads(path.read_text(encoding="utf-8"))
    events = trace["traceEvents"]
    names = {event["tid"] for event in events if event["ph"] == "M" and event["name"] == "thread_name"}
    tracks, items, wrong = collections.defaultdict(list), collections.Counter(), []
    for event in events:
        if event["ph"] == "X":
            tracks[event["tid"]].append((event["ts"], event["dur"]))
            items[event["cat"]] += event["args"].get("items", 1)
        elif event["ph"] == "C" and not all(isinstance(value, (int, float)) for value in event["args"].values()):
            wrong.append(f"a counter that is no number: {event}")
    if set(tracks) != names:
        wrong.append("tracks without a name, or names without a track")
    for number, spans in tracks.items():
        ends = [at + length for at, length in spans]
        if any(after[0] < end - 1e-3 for end, after in zip(ends, spans[1:])):
            wrong.append(f"spans of track {number} overlap")
        if ends and max(ends) > report["duration_secs"] * 1e6 + 1000:
            wrong.append(f"track {number} goes on after the end")
    for stage, figures in report["stages"].items():
        if items[stage] != figures["chunks"]:
            wrong.append(f"{items[stage]} items of {stage}, not {figures['chunks']}")
    print(f"{path.name}: {len(events)} events on {len(tracks)} tracks, {path.stat().st_size} bytes")
    return [f"{path.name}: {words}" for words in wrong]


#: Run in the page: what there is, and what is wrong with it.
PROBE = """<script>
addEventListener("load", () => setTimeout(() => {
  const charts = [...document.querySelectorAll(".chart")];
  const drawn = charts.filter((chart) => {
    const canvas = chart.querySelector("canvas");
    if (!canvas || !canvas.width) return false;
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const colours = new Set();
    for (let at = 0; at < pixels.length; at += 4) if (pixels[at + 3] > 128) colours.add(pixels.slice(at, at + 3).join());
    return colours.size > 8;
  }).map((chart) => chart.id);
  const probe = document.createElement("pre");
  probe.id = "probe";
  probe.textContent = JSON.stringify({
    charts: charts.map((chart) => chart.id), drawn, errors: window.probeErrors,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  });
  document.body.append(probe);
}, 300));
</script>"""
CATCH = '<script>window.probeErrors = []; addEventListener("error", (e) => probeErrors.push(e.message));</script>'


def check_page(chromium, path, report, stages, keep):
    """The page in a browser."""
    wrong = []
    page = path.read_text(encoding="utf-8")
    if re.search(r'(?:src|href)\s*=|url\(|https?://(?!github|www\.w3)', page.split("<script>")[0]):
        wrong.append("it refers to something outside")
    probed = path.with_suffix(".probed.html")
    # The page's own policy allows scripts that are in it.
    probed.write_text(page.replace("<body>", f"<body>{CATCH}", 1).replace("</body>", f"{PROBE}</body>", 1), encoding="utf-8")
    for width in (1280, 400):
        for scheme in ("light", "dark"):
            options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={width},2400",
                       "--virtual-time-budget=4000", f"--user-data-dir={path.parent}/chromium"]
            if scheme == "dark":
                options += ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]
            else:
                options += ["--blink-settings=preferredColorScheme=1"]
            done = subprocess.run([chromium, *options, "--dump-dom", f"file://{probed}"], capture_output=True, text=True,
                                  check=False, timeout=120)
            what = f"{width} px, {scheme}"
            found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
            if not found:
                wrong.append(f"{what}: no answer of the browser: {done.stderr[-300:]}")
                continue
            seen = json.loads(found.group(1).replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))
            if seen["errors"] or seen["charts"] != seen["drawn"]:
                wrong.append(f"{what}: {seen}")
            # Headless windows are never narrower than 500 pixels or so; the page must fit all the same.
            if seen["wide"] > 0:
                wrong.append(f"{what}: {seen['wide']} pixels too wide")
            if keep:
                shot = keep / f"{path.stem}-{width}-{scheme}.png"
                subprocess.run([chromium, *options, f"--screenshot={shot}", f"file://{path}"], capture_output=True, check=False,
                               timeout=120)
    text = re.sub(r"<[^>]+>", "\n", page.split('<script type="application/json"')[0])
    for figure in [str(report["successful_files"]), f"{report['duration_secs']:.2f} s", *report["stages"]]:
        if figure not in text:
            wrong.append(f"{figure} is not on the page")
    for stage in stages:
        if f'"name":"{stage}"' not in page:
            wrong.append(f"{stage} is in no chart")
    print(f"{path.name}: {len(page)} bytes, charts: {', '.join(re.findall(r'class=.chart. id=.(.*?).>', page))}")
    return [f"{path.name}: {words}" for words in wrong]


def main():
    """Runs, and looks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("flint_pipe", type=lambda path: pathlib.Path(path).resolve())
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--scratch", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    scratch = options.scratch or pathlib.Path(tempfile.mkdtemp(prefix="flint-pipe-records.", dir=os.environ.get("TMPDIR", "/var/tmp")))
    try:
        wrong = check(options, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print("\n".join(wrong) or "all as it should be")
    sys.exit(bool(wrong))


def check(options, scratch):
    """Everything; what is wrong."""
    has_packages = provide(scratch)
    if not has_packages:
        note(f"{' and '.join(PACKAGES)} cannot be had: log and metrics were not read")
    chromium = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if not chromium:
        note("no Chromium is installed: the pages were not opened")
    work = options.keep or scratch / "work"
    work.mkdir(parents=True, exist_ok=True)
    os.environ["FLINT_PASSWORD"] = "the records"
    make_tree(scratch / "tree")
    vault, wrong = scratch / "vault.flint", []
    for command, words in [
        ("add", ["-s", "tree", "-l", "7"]),
        ("verify", []),
        ("extract", ["-o", scratch / "out"]),
        ("profile", ["-s", "tree", "--time", "8s", "--sweep", "--roofline"]),
    ]:
        files = {kind: work / f"{command}.{kind}" for kind in ("html", "json", "txt", "hlog", "trace", "prom")}
        asked = [f"--report={files[kind]}" for kind in ("html", "json", "txt")]
        asked += [f"--hlog={files['hlog']}", f"--trace={files['trace']}", f"--metrics={files['prom']}"]
        place = [] if command == "profile" else ["-v", vault]
        run(options.flint_pipe, scratch, command, *place, *words, *asked)
        report = json.loads(files["json"].read_text(encoding="utf-8"))
        if command == "profile":
            # Its log and its trace are those of several runs; here it is for the page alone.
            median = report["median"]
            report = {**median, "exit_code": report["exit_code"], "successful_files": median["total_files"] - median["failed_files"]}
        else:
            wrong += check_trace(files["trace"], report)
            if has_packages:
                wrong += check_hlog(files["hlog"], report["stages"]) + check_metrics(files["prom"], report)
        if chromium:
            wrong += check_page(chromium, files["html"], report, report["stages"], options.keep)
    return wrong


if __name__ == "__main__":
    main()
