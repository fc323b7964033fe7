"""The machine that measures: its cores, and what /proc says about a process and its children."""

import os
import platform
import socket
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CORES = sorted(os.sched_getaffinity(0))
#: the worker has a core to itself; the upstream, a broker and the harness share the other
WORKER_CORE, UPSTREAM_CORE = {_CORES[0]}, {_CORES[-1]}
_TICKS = os.sysconf("SC_CLK_TCK")


def pin(cores: set[int]) -> Callable[[], None]:
    """For ``preexec_fn``: the child runs on these cores. Its parent has no threads."""
    return partial(os.sched_setaffinity, 0, cores)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += family(int(child))
    return found


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and all below it, those that have ended included."""
    return sum(_ticks(one) for one in family(pid)) / _TICKS


def _ticks(pid: int) -> int:
    parts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, parts[11:15]))


def memory_mb(pid: int, field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak), summed over a process and all below it."""
    return sum(_status_kb(one, field) for one in family(pid)) / 1024


def _status_kb(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    return 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def description() -> dict[str, object]:
    """What a reader must know to compare figures."""
    models = {
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    }
    return {
        "processor": ", ".join(sorted(models)) or platform.processor(),
        "cores": len(_CORES),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        "system": f"{platform.system()} {platform.release()}",
        "load": os.getloadavg()[0],
    }


def versions(python: Path, names: Sequence[str]) -> dict[str, str]:
    """Versions of Python and of these distributions in another environment, as far as they are there."""
    source = (
        "import sys, platform; from importlib.metadata import distributions\n"
        "print('python', platform.python_version())\n"
        "for each in distributions():\n"
        "    if each.name in sys.argv[1:]: print(each.name, each.version)"
    )
    told = subprocess.run([python, "-c", source, *names], capture_output=True, text=True, timeout=60, check=True)
    return dict(line.split() for line in told.stdout.splitlines())
