"""What does one run of a command, or of a pipe, cost? Wall and CPU seconds, peak memory, and whether others were busy."""

import dataclasses
import os
import subprocess
import threading
import time

#: Seconds between two looks at the memory of a run.
SAMPLE_S = 0.02


@dataclasses.dataclass
class Run:
    """One measured run. Seconds and bytes; `sync` is how long a `sync` took after it."""

    wall: float
    cpu: float
    peak: int
    anon: int
    sync: float
    disturbed: bool

    def durable(self):
        """Seconds until what was written is on the disk."""
        return self.wall + self.sync


class Failed(Exception):
    """A command ended with an error; says which and how."""


def busy_s():
    """Seconds that all cores together were busy since the system started."""
    with open("/proc/stat", encoding="ascii") as stat:
        fields = [int(field) for field in stat.readline().split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def _resident(pid):
    """Resident bytes of a process tree: all of it, and the anonymous part."""
    total = anonymous = 0
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1]) << 10
                elif line.startswith("RssAnon:"):
                    anonymous += int(line.split()[1]) << 10
    except OSError:
        return 0, 0
    for child in _children(pid):
        more = _resident(child)
        total, anonymous = total + more[0], anonymous + more[1]
    return total, anonymous


def run(commands, *, cwd=None, env=None, stdout=None):
    """Runs commands, each reading what the one before prints, and measures them.

    - `stdout`: a path for what the last one prints; dropped otherwise.
    """
    os.sync()
    environment = {**os.environ, **(env or {})}
    with open(stdout or os.devnull, "wb") as out, open(os.devnull, "rb") as nothing:
        busy, began = busy_s(), time.monotonic()
        processes, source = [], nothing
        for number, command in enumerate(commands):
            is_last = number == len(commands) - 1
            process = subprocess.Popen(command, stdin=source, stdout=out if is_last else subprocess.PIPE,
                                       stderr=subprocess.PIPE, cwd=cwd, env=environment)
            if source is not nothing:
                source.close()
            source = process.stdout
            processes.append(process)
        errors = [[] for _ in processes]
        readers = [threading.Thread(target=lambda p=p, e=e: e.append(p.stderr.read())) for p, e in zip(processes, errors)]
        for reader in readers:
            reader.start()
        cpu, peak, anon = 0.0, 0, 0
        left = dict(enumerate(processes))
        while left:
            sampled = [_resident(process.pid) for process in left.values()]
            peak = max(peak, sum(total for total, _ in sampled))
            anon = max(anon, sum(part for _, part in sampled))
            ended = {}
            for number, process in left.items():
                pid, status, usage = os.wait4(process.pid, os.WNOHANG)
                if pid:
                    process.returncode = os.waitstatus_to_exitcode(status)
                    ended[number] = usage
            for number, usage in ended.items():
                del left[number]
                cpu += usage.ru_utime + usage.ru_stime
                # What came and went between two looks; of the process alone, not of what it started.
                peak = max(peak, usage.ru_maxrss << 10 if len(processes) == 1 else 0)
            if left and not ended:
                time.sleep(SAMPLE_S)
        wall, busy = time.monotonic() - began, busy_s() - busy
        for reader in readers:
            reader.join()
    for command, process, error in zip(commands, processes, errors):
        if process.returncode != 0:
            text = b"".join(error).decode(errors="replace")[-2000:]
            raise Failed(f"ended with {process.returncode}: {' '.join(map(str, command))}\n{text}")
    began = time.monotonic()
    os.sync()
    return Run(wall, cpu, peak, anon, time.monotonic() - began, busy - cpu > wall * os.cpu_count() / 10)
