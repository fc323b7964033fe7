"""Sources of the kind postgres over a real server: what every source promises, then how claims begin and end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from structlog.testing import capture_logs

from ai_task_processor.cli import main as cli
from ai_task_processor.core import plugins
from ai_task_processor.core.checks import Finding, Listed
from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.errors import Ambiguous, CircuitOpen, Rejected, RemoteError, Transient, Unauthorized
from ai_task_processor.core.ports import Want
from ai_task_processor.models.task import Cancelled, Claim
from ai_task_processor.net import postgres as net
from ai_task_processor.net.leases import incarnation_of
from ai_task_processor.sources.postgres import table as module
from ai_task_processor.sources.postgres.session import lock_key
from ai_task_processor.sources.postgres.source import PostgresSource
from ai_task_processor.testing.source import OUTPUT, SOURCE_PROMISES, TOO_LONG, Gatekeeper, HandClock, SourcePromise
from tests.contract.helpers import failing
from tests.helpers import services
from tests.postgres import CONVERSATIONS, FIXTURES, Database, Server

postgres, database = FIXTURES

#: a table with every column that a profile can name, and none of the usual names
EVERYTHING = """
CREATE SCHEMA "Odd";
CREATE TYPE "Odd".word AS ENUM ('new', 'busy', 'good', 'bad', 'stopped');
CREATE TABLE "Odd"."order"(
    "the id" uuid PRIMARY KEY DEFAULT gen_random_uuid(), kind text DEFAULT 'echo', params jsonb,
    made timestamp DEFAULT clock_timestamp(), touched timestamp, begun timestamp, ended timestamp,
    "user" text, "group" "Odd".word DEFAULT 'new', tries int,
    answer jsonb, complaint text, stop boolean DEFAULT false);
"""
PROFILE = """
kind = "postgres"
types = ["echo"]
table = "Odd.order"
id_type = "uuid"
content = "params"
[columns]
id = "the id"
created_at = "made"
state = "group"
owner = "user"
type = "kind"
updated_at = "touched"
started_at = "begun"
finished_at = "ended"
attempt = "tries"
result = "answer"
error = "complaint"
cancel = "stop"
[states]
pending = "new"
processing = "busy"
completed = "good"
failed = "bad"
cancelled = "stopped"
"""
#: the tables of task-conversations with the content of the suite
TEXTS = """
kind = "postgres"
types = ["simulate"]
table = "tasks"
content = { text = "title" }
[columns]
id = "id"
created_at = "created_at"
state = "status"
owner = "processing_instance_id"
"""


def described(folder: Path, toml: str) -> type[PostgresSource]:
    """The class of the source that a profile describes."""
    file = folder / "profile.toml"
    file.write_text(toml)
    found: type[PostgresSource] = plugins.find("sources", str(file)).load()
    return found


def built(kind: type[PostgresSource], database: Database, **more: Any) -> PostgresSource:
    given = {"DATABASE_URL": database.dsn, "LEASE_TTL": "2", "CIRCUIT_BREAKER_THRESHOLD": "1000"}
    clock = more.pop("clock", None) or SystemClock()
    source: PostgresSource = kind.build(services({**given, **more}, kind, clock=clock, source=kind.name))
    return source


class Running:
    """A source that is running, until ``kill``: then its sessions end as those of a process that was killed."""

    def __init__(self, source: PostgresSource) -> None:
        self.source = source
        self.admission = Gatekeeper()
        self._life = asyncio.ensure_future(source.run(asyncio.Event()))

    async def kill(self) -> None:
        self._life.cancel()
        with suppress(asyncio.CancelledError):
            await self._life

    async def claims(self, limit: int = 10, **more: Any) -> list[Claim]:
        return list(await self.source.claim(Want(limit, self.admission, **more)))

    async def claimed(self, limit: int = 10) -> list[str]:
        return [claim.task.id for claim in await self.claims(limit)]


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start(database: Database) -> AsyncIterator[Start]:
    """Starts sources over the database."""
    conversations: type[PostgresSource] = plugins.find("sources", "task-conversations").load()
    async with AsyncExitStack() as stack:

        async def start(kind: type[PostgresSource] = conversations, of: Database = database, **more: Any) -> Running:
            running = Running(built(kind, of, **more))
            stack.push_async_callback(running.kill)
            return running

        yield start


async def eventually(holds: Callable[[], Awaitable[object]], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not await holds():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.02)


# --- what every source promises


class Case:
    """``testing.source.SourceCase``."""

    def __init__(self, source: PostgresSource, database: Database, table: str, columns: dict[str, str]) -> None:
        self.source = source
        self.admission = Gatekeeper()
        self.database = database
        self._names = {"table": table, **columns}

    def _rows(self, statement: str, *given: object) -> list[tuple[Any, ...]]:
        return self.database.rows(statement.format(**self._names), *given)

    def add(self, text: str) -> str:
        ((task_id,),) = self._rows("INSERT INTO {table}({content}) VALUES ({value}) RETURNING {id}::text", text)
        return str(task_id)

    def put_back(self, task_id: str) -> None:
        self._rows("UPDATE {table} SET {state} = {pending} WHERE {id}::text = %s RETURNING 1", task_id)

    def refuse(self, task_id: str) -> None:
        self.database.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'user text'; END $$;"
            " CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW"
            " WHEN (OLD.{id}::text = '{one}') EXECUTE FUNCTION refuse()".format(one=task_id, **self._names)
        )

    def break_down(self) -> None:
        self.database.allow_connections(False)

    def state(self, task_id: str) -> str:
        ((word,),) = self._rows("SELECT {state}::text FROM {table} WHERE {id}::text = %s", task_id)
        words = {"completed": "succeeded", "good": "succeeded", "failed": "failed", "bad": "failed"}
        return words.get(word, "pending")

    @property
    def clock(self) -> HandClock:
        clock = self.source._clock
        assert isinstance(clock, HandClock)
        return clock


USUAL = {"id": "id", "state": "status", "content": "title", "value": "%s", "pending": "'pending'"}
ODD = {"id": '"the id"', "state": '"group"', "content": "params", "pending": "'new'"}
ODD["value"] = "jsonb_build_object('text', %s::text)"


@asynccontextmanager
async def case(postgres: Server, folder: Path, kind: str) -> AsyncIterator[Case]:
    odd = kind == "everything"
    database = postgres.database(EVERYTHING if odd else CONVERSATIONS)
    source = built(described(folder, PROFILE if odd else TEXTS), database, clock=HandClock())
    running = Running(source)
    try:
        yield Case(source, database, '"Odd"."order"' if odd else "tasks", ODD if odd else USUAL)
    finally:
        await running.kill()
        database.close()


@pytest.mark.parametrize("kind", ["usual", "everything"])
@pytest.mark.parametrize("promise", SOURCE_PROMISES, ids=lambda promise: promise.__name__)
async def test_it_keeps_the_promises_of_a_source(
    promise: SourcePromise, kind: str, postgres: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(net, "POOL_S", 1.0)  # for the outage
    async with case(postgres, tmp_path, kind) as each:
        await promise(each)


# --- what is claimed


async def test_a_task_has_its_conversations(database: Database, start: Start) -> None:
    """In their order, as the profile says; the attempt is counted in the owner."""
    (first, second) = database.add(2)
    source = await start()
    claims = await source.claims()
    assert [claim.task.id for claim in claims] == [first, second]
    assert claims[0].task.content == {
        "title": "title 1",
        "description": "text",
        "conversations": [{"id": n, "content": f"line {n}", "status": "active"} for n in (1, 2)],
    }
    assert (claims[0].task.type, claims[0].task.attempt) == ("simulate", 1)
    owner = claims[0].receipt.token
    assert owner.startswith(f"atp:{source.source.status()['instance']['id']}:")  # type: ignore[index]
    assert owner.endswith(":1")
    await source.source.release(claims[0].receipt, 0)
    (again,) = await source.claims()
    assert (again.task.id, again.task.attempt, again.receipt.token[-2:]) == (first, 2, ":2")


async def test_no_two_sources_claim_one_task(database: Database, start: Start) -> None:
    """Four at once, in batches, with the plan that once let a LIMIT of ten claim a thousand rows."""
    ids = database.add(500, 0)
    sources = [await start() for _ in range(4)]
    found: list[list[str]] = [[] for _ in sources]

    async def take(number: int) -> None:
        while claimed := await sources[number].claimed(7):
            assert len(claimed) <= 7
            assert claimed == sorted(claimed, key=int)
            found[number] += claimed

    await asyncio.gather(*map(take, range(4)))
    assert sorted((id_ for each in found for id_ in each), key=int) == ids
    assert database.states() == {"processing": 500}


@pytest.mark.parametrize("reason", ["paused", "dead_letter", "unknown_type"])
async def test_refused_tasks_stay_and_starve_nobody(database: Database, start: Start, reason: Any) -> None:
    """1,200 of them at the head of the table; none of them was changed, and the next claim begins behind them."""
    ids = database.add(1_210, 0)
    source = await start()
    source.admission.refused = dict.fromkeys(ids[:1_200], reason)
    assert await source.claimed(3) == ids[1_200:1_203]
    assert source.source.backlog.skipped == {reason: 1_200 if reason else 0}
    seen = source.source.backlog.seen
    assert await source.claimed(3) == ids[1_203:1_206]
    assert source.source.backlog.seen < seen / 2
    assert database.value("SELECT count(*) FROM tasks WHERE processing_instance_id IS NOT NULL") == 6
    source.admission.refused = {}
    source.source.resume()
    assert await source.claimed(3) == ids[:3]


async def test_what_somebody_else_does_with_a_task_does_not_block_a_claim(database: Database, start: Start) -> None:
    """One is being edited and is skipped; into another one a conversation is being inserted, which is no reason."""
    edited, discussed, untouched = database.add(3)
    source = await start()
    with psycopg.connect(database.dsn) as other:
        other.execute("UPDATE tasks SET title = 'new' WHERE id = %s", [edited])
        other.execute("INSERT INTO conversations(task_id, content) VALUES (%s, 'more')", [discussed])
        assert await source.claimed() == [discussed, untouched]
    assert await source.claimed() == [edited]


async def test_types_of_a_column(postgres: Server, start: Start, tmp_path: Path) -> None:
    """Only wanted types are claimed, in either spelling; a task that is cancelled while it is pending ends at once."""
    odd = postgres.database(EVERYTHING)
    for row in (("other", "1", False), ("fetch-url", "2", False), ("echo", "3", True), ("echo", "4", False)):
        odd.execute('INSERT INTO "Odd"."order"(kind, params, stop) VALUES (%s, %s, %s)', *row)
    source = await start(described(tmp_path, PROFILE), odd)
    claims = await source.claims(types=frozenset({"fetch_url", "echo"}))
    assert [(claim.task.type, claim.task.content) for claim in claims] == [("fetch_url", 2), ("echo", 4)]
    states = odd.rows('SELECT "group"::text, ended IS NULL FROM "Odd"."order" ORDER BY params')
    assert states == [("new", True), ("busy", True), ("stopped", False), ("busy", True)]
    odd.execute("""UPDATE "Odd"."order" SET stop = true WHERE params = '4'""")
    receipts = [claim.receipt for claim in claims]
    assert not await source.source.renew(receipts)
    assert source.source.cancelled() == [receipts[1]]
    await source.source.report(receipts[1], Cancelled())
    await source.source.report(receipts[0], OUTPUT)
    (answer,) = odd.rows("""SELECT answer, tries, begun <= ended FROM "Odd"."order" WHERE params = '2'""")
    assert answer == ({"labels": ["yes"]}, 1, True)
    assert odd.value("""SELECT "group"::text FROM "Odd"."order" WHERE params = '4'""") == "stopped"
    odd.close()


# --- how a claim ends


async def test_conversations_follow_the_outcome(database: Database, start: Start) -> None:
    """``processed`` and ``processed_at`` with a completed task, in one transaction; a failed one leaves them."""
    database.add(2)
    source = await start()
    good, bad = await source.claims()
    await source.source.report(good.receipt, OUTPUT)
    await source.source.report(bad.receipt, TOO_LONG)
    rows = database.rows(
        "SELECT t.status, processed_at IS NULL, array_agg(c.status), bool_and(c.updated_at > c.created_at) FROM tasks t"
        " JOIN conversations c ON task_id = t.id GROUP BY t.id ORDER BY t.id"
    )
    assert rows == [
        ("completed", False, ["processed", "processed"], True),
        ("failed", True, ["active", "active"], False),
    ]


async def test_a_late_end_of_a_task_that_was_taken_away(database: Database, start: Start) -> None:
    """Set to pending by hand and claimed by another one, or still pending: the result is not needed any more."""
    database.add(2)
    frozen, thief = await start(), await start()
    old = await frozen.claims()
    database.execute("UPDATE tasks SET status = 'pending'")
    assert len(await frozen.source.renew([claim.receipt for claim in old])) == 2
    (new,) = await thief.claims(1)
    for claim in old:
        rejected = await failing(Rejected, frozen.source.report(claim.receipt, OUTPUT))
        assert rejected.outcome == "lost"
        await frozen.source.release(claim.receipt, 0)
    assert database.states() == {"pending": 1, "processing": 1}
    await thief.source.report(new.receipt, OUTPUT)
    rejected = await failing(Rejected, frozen.source.report(old[0].receipt, TOO_LONG))
    assert rejected.outcome == "lost"
    assert database.states() == {"pending": 1, "completed": 1}


async def test_a_deleted_task_is_gone(database: Database, start: Start) -> None:
    database.add(1)
    source = await start()
    (claim,) = await source.claims()
    database.execute("DELETE FROM tasks")
    assert list(await source.source.renew([claim.receipt])) == [claim.receipt]
    for outcome in (OUTPUT, TOO_LONG):
        assert (await failing(Rejected, source.source.report(claim.receipt, outcome))).outcome == "gone"


async def test_a_result_that_the_database_refuses(postgres: Server, start: Start, tmp_path: Path) -> None:
    """The constraint is named, and no value."""
    odd = postgres.database(EVERYTHING)
    odd.execute("""ALTER TABLE "Odd"."order" ADD CONSTRAINT tame CHECK (complaint NOT LIKE '%long%')""")
    odd.execute("""INSERT INTO "Odd"."order"(params) VALUES ('{"a": 1}')""")
    source = await start(described(tmp_path, PROFILE), odd)
    (claim,) = await source.claims()
    rejected = await failing(Rejected, source.source.report(claim.receipt, TOO_LONG))
    assert (rejected.outcome, rejected.detail) == (
        "refused",
        "PostgreSQL answers 23514 (CheckViolation): constraint tame",
    )
    odd.close()


# --- owners that are dead, and owners that are not


async def owners(database: Database) -> dict[str, str]:
    return dict(database.rows("SELECT id::text, processing_instance_id FROM tasks WHERE status = 'processing'"))


async def test_claims_of_a_dead_owner_end(database: Database, start: Start) -> None:
    """Also of one that never was here, although an edit has just changed ``updated_at``; others keep theirs."""
    ids = database.add(6)
    victim, living, reaper = await start(), await start(), await start()
    await victim.claims(2)
    kept = await living.claims(1)
    database.execute(
        "UPDATE tasks SET status = 'processing', processing_instance_id = %s WHERE id = %s", "b7e0", ids[3]
    )
    database.execute(
        "UPDATE tasks SET status = 'processing', processing_instance_id = %s WHERE id = %s",
        "atp:elsewhere:0123456789abcdef:0123456789abcdef:3",
        ids[4],
    )
    await victim.kill()
    database.execute("UPDATE tasks SET title = 'edited', updated_at = now() + interval '1 h'")
    began_at = asyncio.get_running_loop().time()

    async def reaped() -> bool:
        assert not await reaper.source.renew([])
        assert not await living.source.renew([kept[0].receipt])
        return len(await owners(database)) == 2

    await eventually(reaped)
    assert asyncio.get_running_loop().time() - began_at >= 0.6, "a process whose connection was cut has time to return"
    assert (await owners(database)).keys() == {ids[2], ids[3]}
    again = {claim.task.id: claim.task.attempt for claim in await reaper.claims()}
    assert again == {ids[0]: 2, ids[1]: 2, ids[4]: 4, ids[5]: 1}


async def test_a_frozen_owner_loses_its_claims(database: Database, start: Start) -> None:
    """Its session gives no sign of life, so that the server ends it."""
    database.add(1)
    reaper = await start()
    owner = "atp:frozen:0123456789abcdef:0123456789abcdef:1"
    database.execute("UPDATE tasks SET status = 'processing', processing_instance_id = %s", owner)
    with psycopg.connect(database.dsn, autocommit=True) as frozen:
        frozen.execute("SELECT pg_advisory_lock_shared(%s::bigint)", [lock_key(incarnation_of(owner))])
        for _ in range(5):
            await reaper.source.renew([])
            await asyncio.sleep(0.2)
        assert database.states() == {"processing": 1}
        frozen.execute("SET idle_session_timeout = 200")

        async def reaped() -> bool:
            await reaper.source.renew([])
            return database.states() == {"pending": 1}

        await eventually(reaped)


async def test_a_cut_connection_is_no_death(database: Database, start: Start) -> None:
    """All sessions end, as with a restart of the server: nobody takes anybody's task, and claims go on."""
    database.add(4)
    sources = [await start(), await start()]
    claims = [await each.claims(1) for each in sources]
    for _ in range(2):
        assert database.end_sessions()
        for _ in range(8):
            for each, (claim,) in zip(sources, claims, strict=True):
                with suppress(RemoteError):
                    assert not await each.source.renew([claim.receipt])
            await asyncio.sleep(0.05)
    assert len(await owners(database)) == 2
    assert [len(await each.claims(1)) for each in sources] == [1, 1]


async def test_results_of_an_earlier_process_keep_their_claims(database: Database, start: Start) -> None:
    """What waits in the outbox after a restart; what that process was working on runs again at once."""
    waiting, cut_off = database.add(2)
    earlier = await start()
    receipt = (await earlier.claims())[0].receipt
    later, other = await start(), await start()
    assert await later.claims() == []
    later.admission.refused = {waiting: "in_outbox"}
    await later.source.renew([receipt])
    await later.source.renew([receipt])
    await earlier.kill()
    for _ in range(8):
        await other.source.renew([])
        await asyncio.sleep(0.1)
    assert len(await owners(database)) == 2, "two processes hold the lock of the first"

    async def resumed() -> bool:
        await later.source.renew([receipt])
        return await later.claimed() == [cut_off]

    await eventually(resumed)
    await later.source.report(receipt, OUTPUT)
    assert database.states() == {"completed": 1, "processing": 1}


async def test_a_claim_whose_answer_was_lost(database: Database, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ours, and nothing here works on it: it is pending again, unless it has a record that stays."""
    ids = database.add(3)
    source = await start()
    claim = source.source._table.claim

    async def lost(*given: Any, **more: Any) -> Any:
        await claim(*given, **more)
        raise Ambiguous("the connection was lost")

    monkeypatch.setattr(source.source._table, "claim", lost)
    await failing(Ambiguous, source.claims(3))
    monkeypatch.undo()
    assert len(await owners(database)) == 3
    assert not await source.source.renew([])
    source.admission.refused = {ids[0]: "dead_letter", ids[1]: "paused"}
    assert await source.claimed() == [ids[2]]
    assert (await owners(database)).keys() == {ids[0], ids[2]}


# --- connections that end in the middle


@pytest.mark.parametrize("of", ["claim", "renew", "report", "release"])
async def test_a_connection_is_cut_in_the_middle_of_a_statement(database: Database, start: Start, of: str) -> None:
    """Nothing is half done, and a repetition does it."""
    database.add(2)
    source = await start()
    (claim,) = await source.claims(1)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "claim": lambda: source.claims(1),
        "renew": lambda: source.source.renew([claim.receipt]),
        "report": lambda: source.source.report(claim.receipt, OUTPUT),
        "release": lambda: source.source.release(claim.receipt, 0),
    }
    before = database.rows("SELECT * FROM tasks ORDER BY id")
    with database.connection.transaction():
        database.execute("LOCK TABLE tasks")
        call = asyncio.ensure_future(calls[of]())
        await database.waiting()
        assert database.end_sessions("wait_event_type = 'Lock'") == 1
        await failing(Transient if of == "renew" else Ambiguous, call)
    assert database.rows("SELECT * FROM tasks ORDER BY id") == before
    await calls[of]()
    assert (
        database.states()
        == {
            "claim": {"processing": 2},
            "renew": {"pending": 1, "processing": 1},
            "report": {"completed": 1, "pending": 1},
            "release": {"pending": 2},
        }[of]
    )


async def test_a_row_that_somebody_locks(database: Database, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report waits for a while, is tried again, and nothing of it is applied meanwhile."""
    monkeypatch.setattr(net, "_SESSION", {**net._SESSION, "lock_timeout": "100ms"})
    database.add(1)
    source = await start()
    (claim,) = await source.claims()
    with psycopg.connect(database.dsn) as other:
        other.execute("SELECT FROM tasks FOR UPDATE")
        error = await failing(Transient, source.source.report(claim.receipt, OUTPUT))
        assert "55P03" in str(error)
    assert database.value("SELECT count(*) FROM conversations WHERE status = 'processed'") == 0
    await source.source.report(claim.receipt, OUTPUT)


async def test_a_database_that_comes_later(database: Database, start: Start) -> None:
    """Nothing is claimed without the lock; when the server is there, it is."""
    database.add(1)
    database.allow_connections(False)
    source = await start()
    await failing(CircuitOpen, source.claims(), match="not currently accepting connections")
    assert [problem.code for problem in source.source.problems()] == ["database_unavailable"]
    database.allow_connections(True)

    async def claimed() -> bool:
        with suppress(RemoteError):
            return bool(await source.claims())
        return False

    await eventually(claimed)
    assert not source.source.problems()


# --- wake-ups, preparation, doctor


async def test_a_new_task_ends_the_wait(
    database: Database,
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """With the trigger; an index makes claims cheap. The command creates both; to do so twice changes nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database.dsn)
    source = await start()
    await source.claims()
    database.add(20_000, 0)
    database.execute("ANALYZE")
    table = source.source._table
    connection = await table.database.connect()
    assert await table.sorted_rows(connection) > 15_000
    command = ["sources", "prepare", "task-conversations"]
    assert await asyncio.to_thread(cli.main, command) == 0
    shown = capsys.readouterr().out
    assert await table.sorted_rows(connection) > 15_000
    for _ in range(2):
        assert await asyncio.to_thread(cli.main, [*command, "--apply"]) == 0
        assert capsys.readouterr().out == f"{shown}-- done\n"
    assert await table.sorted_rows(connection) == 0
    await connection.close()
    while await source.source.wait(0.05):
        pass
    waiting = asyncio.ensure_future(source.source.wait(60))
    await asyncio.sleep(0)
    began_at = asyncio.get_running_loop().time()
    database.add(1, 0)
    assert await waiting is True
    assert asyncio.get_running_loop().time() - began_at < 1


async def findings(source: PostgresSource) -> list[Finding | Listed]:
    (check,) = source.checks()
    return [finding async for finding in check.work()]


async def test_doctor_finds_no_fault(database: Database, start: Start) -> None:
    database.add(3)
    found = await findings((await start()).source)
    assert [getattr(each, "mark", "listed") for each in found] == ["ok", "listed"]
    assert isinstance(found[1], Listed)
    assert (found[1].seen, found[1].complete) == (3, True)
    assert database.states() == {"pending": 3}


async def test_doctor_finds_every_fault_at_once(database: Database, start: Start, tmp_path: Path) -> None:
    """A missing column and table, wrong types, a short owner, rights that are missing."""
    database.execute(
        "DROP TABLE conversations; ALTER TABLE tasks DROP description, ALTER status DROP DEFAULT,"
        " ALTER status TYPE int USING 1"
    )
    database.execute("ALTER TABLE tasks ALTER processing_instance_id TYPE varchar(36), DROP CONSTRAINT tasks_pkey")
    database.execute("ALTER TABLE tasks ALTER id DROP DEFAULT, ALTER id TYPE text")
    database.execute("DROP ROLE IF EXISTS limited; CREATE ROLE limited LOGIN; GRANT SELECT ON tasks TO limited")
    source = await start(DATABASE_URL=database.dsn.replace("postgres:", "limited:", 1))
    written = "processed_at, processing_instance_id, status"
    texts = [f"{each.text}: {each.remedy}" for each in await findings(source.source) if isinstance(each, Finding)]
    assert texts == [
        "tasks has no column description: correct content.description in the profile",
        f"we may not UPDATE tasks ({written} and 1 more): GRANT UPDATE ON tasks TO our role",
        "tasks.status is int4, not text or an enumeration: correct columns.state in the profile",
        "tasks.id is text, not of id_type integer: correct columns.id in the profile",
        "tasks.processing_instance_id has room for 36 characters only: make it varchar(255): an owner id has up to 160",
        "there is no table conversations: correct its name in the profile, or DATABASE_URL",
    ]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("postgres:", "nobody:"), 'PostgreSQL refuses us: role "nobody" does not exist'),
        (("/test", "/none"), "PostgreSQL refuses us: database"),
        (("host=/", "host=/none/"), "PostgreSQL cannot be reached: No such file or directory"),
    ],
)
async def test_doctor_says_why_it_cannot_connect(
    database: Database, start: Start, change: tuple[str, str], text: str
) -> None:
    source = await start(DATABASE_URL=database.dsn.replace(*change, 1))
    (finding,) = await findings(source.source)
    assert isinstance(finding, Finding)
    assert finding.text.startswith(text)
    assert finding.code


async def test_rights_that_are_missing_are_no_outage(database: Database, start: Start) -> None:
    """A claim says which table it must not change."""
    database.execute(
        "DROP ROLE IF EXISTS reading; CREATE ROLE reading LOGIN; GRANT SELECT ON tasks, conversations TO reading"
    )
    source = await start(DATABASE_URL=database.dsn.replace("postgres:", "reading:", 1))
    database.add(1)
    await failing(Unauthorized, source.claims(), match="42501.*permission denied for table tasks")


async def test_a_long_table_without_an_index(database: Database, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG", 100)
    database.add(300, 0)
    database.execute("ANALYZE")
    with capture_logs() as lines:
        source = await start()
        await source.claims(1)

        async def warned() -> bool:
            return any(line["event"] == "index.missed" for line in lines)

        await eventually(warned)
