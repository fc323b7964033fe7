"""One measured run: an upstream on one core, a worker on another, tasks that appear once the worker idles.

CPU time is that of the worker and its children from the creation of the tasks to the last acknowledgement
and a moment more, so that the start is not in it. The clock is the upstream's: from the moment it first
hands out tasks, so that the throughput does not depend on when an idle worker happens to look.
"""

import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any, Self

from tests.bench import certificate, machine
from tests.bench.machine import ROOT, UPSTREAM_CORE, WORKER_CORE

#: the Python of the loops and the other workers; the daemon has its own
BENCH_PYTHON = ROOT / ".venv/.bench/bin/python"
#: a worker that gets no further for so long is given up; how often the harness looks whether it runs
_PATIENCE_S, _GLANCE_S = 60.0, 2.0
#: after the start, and after the last acknowledgement: what a worker does then is over
_SETTLE_S = 0.5


@dataclass(frozen=True, slots=True)
class Workload:
    """What there is to do. Latencies in seconds. ``tasks`` appear ``batches`` times, after ``warm_up`` unmeasured."""

    tasks: int
    concurrency: int
    length: int = 220
    model_s: float = 0.0
    api_s: float = 0.0
    tls: bool = False
    warm_up: int = 0
    batches: int = 1


@dataclass(frozen=True, slots=True)
class Run:
    """What one run came to. ``pending``: tasks that appeared at once, ``tasks``: in all. Shares are of one core.

    ``broker_us``: CPU time per task of a broker beside, which is not in ``cpu_us``.
    """

    worker: str
    concurrency: int
    pending: int
    tasks: int
    seconds: float
    cpu_us: float
    tasks_per_s: float
    rss_mb: float
    calls_per_1000: float
    repeated: int
    missing: int
    wrong: int
    upstream_share: float
    broker_us: float


class Upstream(AbstractContextManager["Upstream"]):
    """The process of ``tests.bench.upstream``, and its control door."""

    def __init__(self, workload: Workload, directory: Path, *arguments: str) -> None:
        given = ["--model-latency", workload.model_s, "--api-latency", workload.api_s, "--length", workload.length]
        context = None
        if workload.tls:
            given += ["--tls", *certificate.make(directory)]
            context = ssl.create_default_context(cafile=directory / certificate.AUTHORITY)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.upstream", *map(str, given), *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=machine.pin(UPSTREAM_CORE),
        )
        assert self.process.stdout is not None
        port = int(self.process.stdout.readline())
        self.url = f"{'https' if workload.tls else 'http'}://127.0.0.1:{port}"
        self._door = HTTPConnection("127.0.0.1", port, timeout=60)
        if context:
            self._door = HTTPSConnection("127.0.0.1", port, timeout=60, context=context)

    def ask(self, command: str) -> Any:
        """The counts, or what else a command answers."""
        self._door.request("GET", f"/bench/{command}")
        return json.loads(self._door.getresponse().read())

    def until(self, worker: "Worker", **counts: float) -> dict[str, float]:
        """Wait until these counts are reached, as long as they move. Raises ``RuntimeError`` when the worker ends."""
        named = "&".join(f"{name}={value}" for name, value in counts.items())
        seen: dict[str, float] = self.ask("counts")
        moved_at = time.monotonic()
        while not all(seen[name] >= value for name, value in counts.items()):
            worker.must_run()
            before, seen = seen, self.ask(f"until?timeout={_GLANCE_S}&{named}")
            if any(seen[name] != before[name] for name in counts):
                moved_at = time.monotonic()
            elif time.monotonic() - moved_at > _PATIENCE_S:
                break
        return seen

    def __exit__(self, *_: object) -> None:
        self._door.close()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


class Worker:
    """A process that is measured with all its children. ``ready``: the upstream's count that says it has started."""

    ready = "polls"

    def __init__(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str], directory: Path
    ) -> None:
        self.name = name
        self.log = directory / "worker.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=machine.pin(WORKER_CORE),
            )

    def __enter__(self) -> Self:
        return self

    def prepare(self, tasks: int, length: int) -> None:
        """Whatever must be there before so many tasks appear; it is not measured."""

    def release(self, upstream: Upstream, tasks: int) -> None:
        """The tasks appear."""
        upstream.ask(f"add?count={tasks}")

    def must_run(self) -> None:
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self.process.returncode}: {self.tail()}")

    def tail(self) -> str:
        """The end of its output."""
        return self.log.read_text()[-2000:]

    def cpu_s(self) -> float:
        return machine.cpu_s(self.process.pid)

    def broker_cpu_s(self) -> float:
        return 0.0

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


Start = Callable[[str, Workload, Path], Worker]


def measure(start: Start, workload: Workload) -> Run:
    """One run of one worker. Raises ``RuntimeError`` when it ends by itself."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        upstream = stack.enter_context(Upstream(workload, directory))
        worker = stack.enter_context(start(upstream.url, workload, directory))
        upstream.until(worker, **{worker.ready: 1})
        time.sleep(_SETTLE_S)
        if workload.warm_up:
            _batch(upstream, worker, workload.warm_up)
        before, batches = upstream.ask("counts"), []
        cpu_s = broker_s = 0.0
        for _ in range(workload.batches):
            worker.prepare(workload.tasks, workload.length)
            cpu_s -= worker.cpu_s()
            broker_s -= worker.broker_cpu_s()
            batches.append(_batch(upstream, worker, workload.tasks))
            cpu_s += worker.cpu_s()
            broker_s += worker.broker_cpu_s()
        after, seconds = batches[-1], [batch["seconds"] for batch in batches]
        if not all(seconds):
            raise RuntimeError(f"{worker.name} took no task: {worker.tail()}")
        tasks = workload.tasks * workload.batches
        return Run(
            worker=worker.name,
            concurrency=workload.concurrency,
            pending=workload.tasks,
            tasks=tasks,
            seconds=sum(seconds),
            cpu_us=cpu_s / tasks * 1e6,
            tasks_per_s=tasks / sum(seconds),
            rss_mb=machine.memory_mb(worker.process.pid, "VmHWM"),
            calls_per_1000=1000 * (after["model_calls"] - before["model_calls"]) / tasks,
            repeated=int(after["repeated"]),
            missing=int(after["tasks"] - after["acknowledged"]),
            wrong=int(after["wrong"]),
            upstream_share=max(batch["share"] for batch in batches),
            broker_us=broker_s / tasks * 1e6,
        )


def _batch(upstream: Upstream, worker: Worker, tasks: int) -> Any:
    acknowledged = upstream.ask("counts")["acknowledged"]
    worker.release(upstream, tasks)
    upstream.until(worker, acknowledged=acknowledged + tasks)
    time.sleep(_SETTLE_S)
    return upstream.ask("counts")


class DaemonWorker(Worker):
    """The real command with everything on: outbox on disk, logs, metrics."""

    def __init__(self, url: str, workload: Workload, directory: Path, settings: Mapping[str, str]) -> None:
        given = {
            "API_BASE_URL": url,
            "OAUTH2_TOKEN_URL": f"{url}/oauth2/token",
            "OAUTH2_CLIENT_ID": "bench",
            "OAUTH2_CLIENT_SECRET": "bench-secret",
            "OPENAI_API_KEY": "bench-key",
            "OPENAI_BASE_URL": f"{url}/v1",
            "DATA_DIR": str(directory / "data"),
            "METRICS_PORT": "0",
            **({"CA_BUNDLE": str(directory / certificate.AUTHORITY)} if workload.tls else {}),
            **settings,
        }
        super().__init__("daemon", [sys.executable, "-m", "ai_task_processor", "run"], given, directory)

    def port(self) -> int:
        """Where the ops server listens; call when it polls."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return next(int(line["port"]) for line in lines if line["event"] == "daemon.started")


def for_throughput(slots: int) -> dict[str, str]:
    return {"CONCURRENCY_LIMIT": str(slots), "POLLING_INTERVAL_SECONDS": "1"}


def daemon(url: str, workload: Workload, directory: Path) -> DaemonWorker:
    """The daemon as it is set up for throughput."""
    return DaemonWorker(url, workload, directory, for_throughput(workload.concurrency))


#: with all its defaults
daemon_as_shipped = partial(DaemonWorker, settings={})


def loop(library: str) -> Start:
    """A bare loop over this client library."""

    def start(url: str, workload: Workload, directory: Path) -> Worker:
        command: list[str | Path] = [BENCH_PYTHON, "-m", "tests.bench.loops", library, url, str(workload.concurrency)]
        trusted = {"SSL_CERT_FILE": str(directory / certificate.AUTHORITY)} if workload.tls else {}
        return Worker(f"loop over {library}", command, trusted, directory)

    return start
