"""How much memory a process and its children take."""

from __future__ import annotations

import sys
from pathlib import Path


def can_measure() -> bool:
    """Tell whether this system says: Linux does."""
    return sys.platform == "linux"


def of_tree(pid: int) -> int:
    """Return the bytes of a process and all its descendants; pages that several share count in shares (PSS)."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended meanwhile
        children.setdefault(parent, []).append(int(stat.parent.name))
    total, waiting = 0, [pid]
    while waiting:
        process = waiting.pop()
        waiting += children.get(process, [])
        total += _pss(process)
    return total


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
