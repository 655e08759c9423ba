"""CPU time and memory of a process and all below it, read from /proc (Linux)."""

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
INTERVAL = 0.02


@dataclass(slots=True)
class Peaks:
    """Largest sizes of a process, in bytes."""

    command: str
    own: int = 0
    """Anonymous memory: what the program allocated."""
    mapped: int = 0
    """Pages of files that it has mapped, libraries included; the kernel takes them back when memory is short."""
    both: int = 0
    high_water: int = 0
    """Most of everything, as the kernel saw it."""


def status_bytes(pid, *names):
    """Sizes of a process by name, as the kernel tells them; one number for one name."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    sizes = [int(lines[name].split()[0]) * 1024 for name in names]
    return sizes if len(sizes) > 1 else sizes[0]


def stat_of(pid):
    """Fields of a process behind its name, the first of which is its state; None when it ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def tree_of(root):
    """The process and all below it that live now."""
    children = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := stat_of(folder.name)) is not None:
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(pid):
    """CPU time of a process and all below it, those that ended included."""
    ticks = 0
    for one in tree_of(pid):
        if (fields := stat_of(one)) is not None:
            ticks += sum(map(int, fields[11:15]))
    return ticks / TICKS


class Watch:
    """Looks at a process and all below it every 20 ms, from outside, while the block runs."""

    def __init__(self, root):
        self.root = root
        self.peaks = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._is_over.set()
        self._thread.join()

    def _watch(self):
        while not self._is_over.is_set():
            for pid in tree_of(self.root):
                self._look(pid)
            time.sleep(INTERVAL)

    def _look(self, pid):
        try:
            own, mapped, both, high_water = status_bytes(pid, "RssAnon", "RssFile", "VmRSS", "VmHWM")
            command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
        except (FileNotFoundError, ProcessLookupError, KeyError):
            return  # it ended
        seen = self.peaks.setdefault(pid, Peaks(command))
        seen.own = max(seen.own, own)
        seen.mapped = max(seen.mapped, mapped)
        seen.both = max(seen.both, both)
        seen.high_water = max(seen.high_water, high_water)
