"""The real command with tasks in PostgreSQL, beside a worker of another kind."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.conftest import DaemonProcess, eventually
from tests.postgres import FIXTURES, Database

postgres, database = FIXTURES

TAKE = b"""UPDATE tasks SET status = 'processing', processing_instance_id = %s, updated_at = NOW() WHERE id =
(SELECT id FROM tasks WHERE status = 'pending' ORDER BY created_at FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id"""
END = b"""UPDATE tasks SET status = 'completed', processed_at = NOW(), updated_at = NOW()
WHERE id = %s AND status = 'processing' AND processing_instance_id = %s"""
#: every end of a task is noted
AUDIT = """
CREATE TABLE ends(task_id int, owner text);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO ends VALUES (NEW.id, NEW.processing_instance_id); RETURN NEW; END $$;
CREATE TRIGGER note AFTER UPDATE ON tasks FOR EACH ROW
WHEN (NEW.status IN ('completed', 'failed')) EXECUTE FUNCTION note();
"""


async def other_worker(dsn: str) -> None:
    """As the document of these tables has it: one id for each process, one task at a time, polling, no lease."""
    me = str(uuid.uuid4())
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        while True:
            row = await (await connection.execute(TAKE, [me])).fetchone()
            await asyncio.sleep(0.1)
            if row is None:
                continue
            async with connection.transaction():
                if (await connection.execute(END, [row[0], me])).rowcount:
                    done = "UPDATE conversations SET status = 'processed', updated_at = NOW() WHERE task_id = %s"
                    await connection.execute(done, [row[0]])


class Daemons:
    """Starts daemons over a database, each with a data directory of its own."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.all: list[DaemonProcess] = []
        self._folder = folder
        self._database = database

    async def start(self, name: str, *arguments: str, **more: str) -> DaemonProcess:
        directory = self._folder / f"{name}{len(self.all)}"
        directory.mkdir()
        settings = {
            "TASK_SOURCE": "task-conversations",
            "DATABASE_URL": self._database.dsn,
            "DATA_DIR": str(self._folder / name),
            "INSTANCE_ID": name,
            "LEASE_TTL": "2",
            "SIMULATED_WORK_SECONDS": "0.1-0.3",
            "CONCURRENCY_LIMIT": "4",
            "POLLING_INTERVAL_SECONDS": "1",
        }
        self.all.append(DaemonProcess(directory, {**settings, **more}, *arguments))
        return await self.all[-1].start()


@pytest.fixture
async def daemons(tmp_path: Path, database: Database) -> AsyncIterator[Daemons]:
    started = Daemons(tmp_path, database)
    yield started
    for process in started.all:
        await process.kill()
    assert [line for process in started.all for line in process.surprises()] == []


async def test_tasks_survive_a_kill(database: Database, daemons: Daemons) -> None:
    """Two daemons and another worker; one daemon is killed. Each task ends once, with all of its conversations."""
    victim, survivor = await asyncio.gather(daemons.start("victim"), daemons.start("survivor"))
    database.execute(AUDIT)
    database.add(100)
    database.execute(
        "UPDATE tasks SET status = 'processing', processing_instance_id = 'of somebody else' WHERE id = 100"
    )
    worker = asyncio.create_task(other_worker(database.dsn))
    await eventually(lambda: database.rows("SELECT FROM ends WHERE owner LIKE 'atp:victim:%'"), timeout=30)
    held = "SELECT id FROM tasks WHERE status = 'processing' AND processing_instance_id LIKE 'atp:victim:%'"
    await eventually(lambda: database.rows(held))
    await victim.kill()
    cut_off = database.rows(held)
    status: Any = await survivor.status()
    assert status["instance"]["id"] == "survivor"
    assert status["instance"]["claims"] == len(status["instance"]["claim_age_seconds"])
    await eventually(lambda: database.states() == {"completed": 99, "processing": 1}, timeout=30)
    worker.cancel()
    ends = database.rows("SELECT count(*), count(DISTINCT task_id) FROM ends")
    assert ends == [(99, 99)]
    kinds = {owner.rsplit(":", 3)[0] for (owner,) in database.rows("SELECT owner FROM ends WHERE owner LIKE 'atp:%'")}
    assert kinds == {"atp:victim", "atp:survivor"}
    assert database.value("SELECT count(*) FROM ends WHERE owner NOT LIKE 'atp:%'") > 5
    by = dict(database.rows("SELECT task_id, owner FROM ends"))
    assert cut_off
    assert not [id_ for (id_,) in cut_off if by[id_].startswith("atp:victim")]
    lines = database.rows(
        "SELECT t.status, c.status, processed_at IS NULL, count(*)::int FROM tasks t"
        " JOIN conversations c ON task_id = t.id GROUP BY 1, 2, 3 ORDER BY 4"
    )
    assert lines == [("processing", "active", True, 2), ("completed", "processed", False, 198)]


async def test_an_end_and_a_restart(database: Database, daemons: Daemons) -> None:
    """SIGTERM leaves nothing claimed; a daemon that starts after a kill and leaves when nothing is pending waits for
    what the first one was working on.
    """
    database.add(8, 0)
    first = await daemons.start("one", SIMULATED_WORK_SECONDS="30", SHUTDOWN_GRACE_SECONDS="3")
    await eventually(lambda: database.states() == {"pending": 4, "processing": 4})
    assert await first.stop() == 0
    assert database.states() == {"pending": 8}
    first = await daemons.start("one", SIMULATED_WORK_SECONDS="30")
    await eventually(lambda: database.states() == {"pending": 4, "processing": 4})
    await first.kill()
    last = await daemons.start("one", "run", "--until-empty")
    assert await last.exit_code() == 0
    assert database.states() == {"completed": 8}
