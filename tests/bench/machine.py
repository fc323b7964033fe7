"""The machine that measures: its cores, what /proc says about a process and its children, and what a daemon says."""

import os
import platform
import socket
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from pathlib import Path

ROOT = Path(__file__).parents[2]
_CORES = sorted(os.sched_getaffinity(0))
#: the worker has a core to itself; the upstream, a broker and the harness share the other
WORKER_CORE, UPSTREAM_CORE = {_CORES[0]}, {_CORES[-1]}


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
    stats = (Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split() for one in family(pid))
    return sum(sum(map(int, parts[11:15])) for parts in stats) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int, field: str) -> float:
    """``VmRSS`` (now) or ``VmHWM`` (peak), summed over a process and all below it."""
    lines = [line for one in family(pid) for line in Path(f"/proc/{one}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def fetched(port: int, path: str) -> tuple[int, str]:
    """What a daemon answers: status and body."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=10)) as door:
        door.request("GET", path)
        answer = door.getresponse()
        return answer.status, answer.read().decode()


class LoopLag:
    """How late a daemon's event loop is, from now on."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._before = self._buckets()

    def _buckets(self) -> dict[float, float]:
        name = "ai_task_processor_event_loop_lag_seconds_bucket"
        lines = fetched(self._port, "/metrics")[1].splitlines()
        found = [line.split('le="')[1].split('"} ') for line in lines if line.startswith(name)]
        return {float(bound): float(count) for bound, count in found}

    def p99_ms(self) -> float:
        """The 99th percentile of what came in between, as Prometheus reads it out of buckets."""
        counts = {bound: count - self._before[bound] for bound, count in sorted(self._buckets().items())}
        rank, low, below = 0.99 * max(counts.values()), 0.0, 0.0
        for bound, count in counts.items():
            if count >= rank:
                return 1000 * (low + (bound - low) * (rank - below) / (count - below))
            low, below = bound, count
        return 1000 * low


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
