"""Tasks in PostgreSQL: ``make bench ARGS=postgres``, with a real server of its own.

Kills: four daemons and two workers of another kind on 2,000 tasks, a daemon is killed and started again eight times.
Claims: rows claimed per second by four processes, with and without the index. Wake-up: from the insertion of a task to
its claim by an idle daemon. All times are taken by the server.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from ai_task_processor.core import plugins
from ai_task_processor.core.reading import load_group
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.models.task import Task
from ai_task_processor.net.leases import new_incarnation, new_nonce
from ai_task_processor.net.postgres import Database as Client
from ai_task_processor.net.postgres_settings import DatabaseSettings
from ai_task_processor.sources.postgres import preparation
from ai_task_processor.sources.postgres.statements import Statements
from ai_task_processor.sources.postgres.table import Table
from tests.bench.alone import percentile
from tests.bench.contest import Plan, tell
from tests.bench.report import Bound, Section, at_most
from tests.e2e.conftest import DaemonProcess
from tests.e2e.test_postgres import other_worker
from tests.postgres import CONVERSATIONS, Database, Server

TASKS, CONVERSATIONS_EACH, WORKERS, OTHERS, KILLS = 2_000, 3, 4, 2, 8
#: seconds between two kills, and until a run is given up
BETWEEN_S, GIVEN_UP_S = 1.5, 180.0
#: tasks of the measurement of claims, those that are left, and seconds of one run
PENDING, BATCHES, CLAIMING_S = 100_000, (1, 10, 100), 4.0
WOKEN, UNWOKEN = 200, 40
#: each change of a state
HISTORY = """
CREATE TABLE history(task_id int, state text, owner text, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO history VALUES (NEW.id, NEW.status, NEW.processing_instance_id); RETURN NEW; END $$;
CREATE TRIGGER note AFTER UPDATE OF status ON tasks FOR EACH ROW EXECUTE FUNCTION note();
"""
#: from the moment of a kill to the next claim of each task that the victim was working on
TAKEN_OVER = """
SELECT extract(epoch FROM (SELECT min(h.at) FROM history h WHERE h.task_id = v.task_id AND h.state = 'processing'
  AND h.at > v.at) - v.at)::float8 FROM victims v"""


def prepared(database: Database) -> None:
    profile = plugins.find("sources", "task-conversations").load().profile
    for statement, _ in preparation.statements(profile):
        database.execute(statement)


class Daemons:
    """Daemons over a database, each with a data directory of its own."""

    def __init__(self, folder: Path, database: Database, **settings: str) -> None:
        self._folder = folder
        self._settings = {
            "TASK_SOURCE": "task-conversations",
            "DATABASE_URL": database.dsn,
            "LOG_LEVEL": "WARNING",
            **settings,
        }
        self.running: dict[str, DaemonProcess] = {}
        self._starts = 0

    async def start(self, name: str) -> None:
        self._starts += 1
        directory = self._folder / f"{name}-{self._starts}"
        directory.mkdir()
        own = {"DATA_DIR": str(self._folder / name), "INSTANCE_ID": name, "LOG_LEVEL": "INFO"}
        self.running[name] = await DaemonProcess(directory, self._settings | own).start()


@asynccontextmanager
async def daemons(database: Database, **settings: str) -> AsyncIterator[Daemons]:
    with tempfile.TemporaryDirectory() as folder:
        started = Daemons(Path(folder), database, **settings)
        try:
            yield started
        finally:
            for process in started.running.values():
                await process.kill()


async def kills(server: Server, plan: Plan) -> Section:
    """Daemons are killed while they work, and started again."""
    count, deaths = plan.tasks(TASKS), 2 if plan.quick else KILLS
    database, rng = server.database(CONVERSATIONS, HISTORY), random.Random(7)
    prepared(database)
    database.execute("CREATE TABLE victims(task_id int, at timestamptz DEFAULT clock_timestamp())")
    database.add(count, CONVERSATIONS_EACH)
    began_at = time.monotonic()
    async with AsyncExitStack() as stack:
        own = await stack.enter_async_context(
            daemons(database, SIMULATED_WORK_SECONDS="0.3-0.9", CONCURRENCY_LIMIT="8", POLLING_INTERVAL_SECONDS="5")
        )
        others = [asyncio.create_task(other_worker(database.dsn)) for _ in range(OTHERS)]
        for each in others:
            stack.callback(each.cancel)
        await asyncio.gather(*(own.start(f"worker-{number}") for number in range(WORKERS)))
        for _ in range(deaths):
            await asyncio.sleep(BETWEEN_S)
            name = rng.choice(list(own.running))
            await own.running[name].kill()
            database.execute(
                "INSERT INTO victims SELECT id FROM tasks WHERE status = 'processing'"
                " AND starts_with(processing_instance_id, %s) AND id NOT IN (SELECT task_id FROM victims)",
                f"atp:{name}:",
            )
            tell(f"postgres: {name} was killed, {database.states()}")
            await own.start(name)
        with suppress(TimeoutError):
            async with asyncio.timeout(GIVEN_UP_S):
                while database.states() != {"completed": count}:  # noqa: ASYNC110 - the server has no event for it
                    await asyncio.sleep(0.1)
    took_s = time.monotonic() - began_at
    stuck = count - database.states().get("completed", 0)
    repeated = database.value(
        "SELECT count(*) FROM (SELECT FROM history WHERE state = 'completed' GROUP BY task_id HAVING count(*) > 1) d"
    )
    torn = database.value(
        "SELECT count(*) FROM tasks t JOIN conversations c ON task_id = t.id"
        " WHERE (t.status = 'completed') <> (c.status = 'processed')"
    )
    failed = database.value("SELECT count(*) FROM history WHERE state = 'failed'")
    again = database.value("SELECT count(*) - count(DISTINCT task_id) FROM history WHERE state = 'processing'")
    victims = [seconds for (seconds,) in database.rows(TAKEN_OVER) if seconds is not None]
    by_others = database.value("SELECT count(*) FROM tasks WHERE NOT starts_with(processing_instance_id, 'atp:')")
    database.close()
    told = f"{stuck}, {repeated}, {failed}, {torn}"
    section = Section(
        "postgres kills",
        f"{count:,} tasks of {CONVERSATIONS_EACH} conversations, {WORKERS} daemons of 8 slots, {OTHERS} other workers",
    )
    section.rows = [
        ("kills", "tasks cut off", "claimed again", "by others", "p50 s", "longest s", "all s"),
        (
            str(deaths),
            str(len(victims)),
            str(again),
            str(by_others),
            *(f"{percentile(victims, share):.2f}" for share in (0.5, 1.0)),
            f"{took_s:.0f}",
        ),
    ]
    section.bounds = [
        Bound("stuck, ended twice, failed, conversations that do not fit", told, "0 each", told == "0, 0, 0, 0"),
        at_most("from a kill to the next claim of its tasks, longest, s", max(victims, default=0.0), 18.0),
    ]
    section.figures = {"taken_over_s": victims, "claimed_again": again}
    return section


async def claim_for(dsn: str, batch: int, seconds: float) -> int:
    """Claim for so long, and return how many rows."""
    profile = plugins.find("sources", "task-conversations").load().profile
    settings = load_group(DatabaseSettings, {"DATABASE_URL": dsn}, None)
    database = Client.build(lambda: settings, NetworkSettings(), connections=1)
    table, incarnation, claimed = Table(database, Statements(profile), profile), new_incarnation("bench"), 0

    async def choose(tasks: Sequence[Task]) -> Sequence[str]:
        return [task.id for task in tasks]

    async with database.opened():
        await table.claim(1, choose, new_nonce(incarnation))
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            claimed += len((await table.claim(batch, choose, new_nonce(incarnation))).owners)
    return claimed


def claims(server: Server, plan: Plan) -> Section:
    """Four processes claim as fast as they can."""
    section = Section("postgres claims", f"{WORKERS} processes, {PENDING:,} pending tasks: rows claimed per second")
    section.rows = [("batch", *map(str, BATCHES))]
    for index in (False, True):
        rates = []
        for batch in BATCHES:
            database = server.database(CONVERSATIONS)
            database.add(plan.tasks(PENDING), 1)
            if index:
                prepared(database)
            database.execute("VACUUM ANALYZE")
            seconds = CLAIMING_S if not index or batch < max(BATCHES) else CLAIMING_S / 4
            command = [sys.executable, "-m", "tests.bench.postgres", database.dsn, str(batch), str(seconds)]
            started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(WORKERS)]
            claimed = sum(int(process.communicate(timeout=120)[0]) for process in started)
            rates.append(claimed / seconds)
            tell(f"postgres: index {index}, batch {batch}: {rates[-1]:,.0f} rows/s")
            database.close()
        section.rows.append(("with the index" if index else "without", *(f"{rate:,.0f}" for rate in rates)))
        section.figures["with_index" if index else "without_index"] = dict(zip(map(str, BATCHES), rates, strict=True))
    return section


async def wake_ups(server: Server, plan: Plan) -> Section:
    """One task at a time, inserted at any moment while a daemon idles."""
    section = Section("postgres wake-up", "one task inserted while a daemon idles: insertion to claim, ms")
    section.rows = [("wake-up", "tasks", "p50", "p99", "longest")]
    for words, announced, interval in (("trigger and NOTIFY", True, "30"), ("none, polls each second", False, "1")):
        database, rng = server.database(CONVERSATIONS, HISTORY), random.Random(7)
        if announced:
            prepared(database)
        count = plan.tasks(WOKEN if announced else UNWOKEN)
        async with daemons(database, SIMULATED_WORK_SECONDS="0", POLLING_INTERVAL_SECONDS=interval) as own:
            await own.start("idle")
            await asyncio.sleep(2.0 if announced else 5.0)
            for number in range(count):
                database.execute("INSERT INTO tasks(title, created_at) VALUES ('x', clock_timestamp())")
                while database.states().get("completed", 0) <= number:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.01)
                await asyncio.sleep(rng.uniform(0.1, 0.2) if announced else rng.uniform(1.0, 4.0))
        rows = database.rows(
            "SELECT extract(epoch FROM min(at) - created_at)::float8 FROM history JOIN tasks ON id = task_id"
            " WHERE state = 'processing' GROUP BY id"
        )
        database.close()
        spread = [1000 * seconds for (seconds,) in rows]
        shown = (f"{percentile(spread, share):,.1f}" for share in (0.5, 0.99, 1.0))
        section.rows.append((words, str(len(spread)), *shown))
        section.figures[words] = spread
        if announced:
            section.bounds.append(at_most("p50 with NOTIFY, ms", percentile(spread, 0.5), 50.0, "{:,.1f}"))
    return section


def postgres(plan: Plan) -> list[Section]:
    """All of it, on a server of its own."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        Path(folder).chmod(0o755)
        server = Server(Path(folder))
        try:
            measures: Mapping[str, Callable[[], Section]] = {
                "kills": lambda: asyncio.run(kills(server, plan)),
                "claims": lambda: claims(server, plan),
                "wake-up": lambda: asyncio.run(wake_ups(server, plan)),
            }
            chosen = os.environ.get("POSTGRES_BENCH", "").split() or list(measures)
            return [measures[name]() for name in chosen]
        finally:
            server.stop()


if __name__ == "__main__":
    print(asyncio.run(claim_for(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))))  # noqa: T201 - the result
