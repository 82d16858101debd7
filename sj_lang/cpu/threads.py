"""How many threads torch gets: what the process may use, less what others already keep busy."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

from sj_lang.folder import RunFolder
from sj_lang.manifest import read_json

CGROUP = Path("/sys/fs/cgroup")


def choose(asked: int | None = None) -> tuple[int | None, str]:
    """The number of threads and why; None keeps torch's own, which OMP_NUM_THREADS sets.

    Threads that wait busily for others that have no core make a step slower, not faster.
    """
    if asked is not None:
        return asked, f"{asked} thread(s), by --threads"
    if fixed := os.environ.get("OMP_NUM_THREADS"):
        return None, f"{fixed} thread(s), by OMP_NUM_THREADS"
    cores, reason = usable()
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    free = (os.cpu_count() or 1) - load
    if free < cores - 0.5:
        threads = max(1, round(free))
        return threads, f"{threads} thread(s) of {cores}: others keep the machine busy (load {load:.1f}); see --threads"
    return cores, f"{cores} thread(s){reason}"


def use(asked: int | None, resumed: str | None) -> None:
    """Give torch that number of threads, and say so if it is not all that the machine has.

    resumed: the folder of a run that goes on. It keeps its number, as sums depend on it.
    """
    if asked is None and resumed is not None and (stored := RunFolder(Path(resumed)).manifest).is_file():
        asked = read_json(stored).get("machine", {}).get("threads")
        number, why = asked, f"{asked} thread(s), as before"
    else:
        number, why = choose(asked)
    if number is not None:
        torch.set_num_threads(number)
        if number < (os.cpu_count() or 1):
            print(f"note: {why}", file=sys.stderr)


def usable() -> tuple[int, str]:
    """Cores that the process may use, and what keeps it from using all of them."""
    everything = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else everything
    quota = _quota()
    if quota is not None and quota < cores:
        return max(1, int(quota)), f" of {cores}: the container has {quota:g} cores"
    return cores, "" if cores == everything else f" of {everything}: the process may use no more"


def _quota() -> float | None:
    """The cores of a container, by either version of its accounting; None: all."""
    try:
        if (CGROUP / "cpu.max").is_file():
            quota, period = (CGROUP / "cpu.max").read_text().split()
        else:
            quota, period = ((CGROUP / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if quota.strip() == "max" or int(quota) < 0 else int(quota) / int(period)
    except (OSError, ValueError):  # no Linux, or no container
        return None
