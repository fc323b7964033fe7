"""A task runner's queue: ``make bench ARGS=task-runner``, with real PostgreSQL, Redis and S3 of its own.

Kills: 500 mixed tasks with timeouts, retries and cancellations, two daemons, of which one is killed and started again
eight times. Faults: what the worker that the task runner ships gets wrong, one scenario after the other.
"""

import asyncio
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.bench.alone import percentile
from tests.bench.contest import Plan, tell
from tests.bench.report import Bound, Section, at_most
from tests.e2e.conftest import DaemonProcess
from tests.postgres import Server
from tests.task_runner import S3, SCHEMA, RedisServer, Runner

TASKS, KILLS, LEASE_TTL = 500, 8, 3
#: seconds between two kills, and until a run is given up
BETWEEN_S, GIVEN_UP_S = 1.5, 120.0
NAMES = ("first", "second")
#: each change of a state
HISTORY = """
CREATE TABLE history(task_id text, state text, start int, at timestamptz DEFAULT clock_timestamp());
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO history VALUES (NEW.id, NEW.status, NEW.retry_count); RETURN NEW; END $$;
CREATE TRIGGER note AFTER UPDATE OF status ON tasks FOR EACH ROW EXECUTE FUNCTION note();
CREATE TABLE victims(task_id text, at timestamptz DEFAULT clock_timestamp());
"""
#: From a kill until each task that the victim was working on is queued again, and until it is started again. One that
#: was running at two kills of a daemon waits for an isolated run there.
TAKEN_OVER = """
SELECT extract(epoch FROM min(h.at) FILTER (WHERE h.state = 'queued') - v.at)::float8,
  extract(epoch FROM min(h.at) FILTER (WHERE h.state = 'running') - v.at)::float8
FROM victims v JOIN history h ON h.task_id = v.task_id AND h.at > v.at GROUP BY v.task_id, v.at"""
#: rows of artifacts that no result names, and ids in results without a row
LOST = """
SELECT (SELECT count(*) FROM artifacts WHERE id NOT IN (SELECT a FROM named)),
  (SELECT count(*) FROM named WHERE a NOT IN (SELECT id FROM artifacts))"""
NAMED = "WITH named AS (SELECT jsonb_array_elements_text(result_json->'artifact_ids') AS a FROM tasks)"
OPEN_RUNS = "SELECT count(*) FROM runs WHERE status = 'running' OR metadata_json ? 'owner'"


class Internet:
    """A search API and pages, which answer after ``latency_s``. ``broken``: the status of all answers."""

    def __init__(self) -> None:
        self.url = ""
        self.latency_s = 0.3
        self.broken = 0
        self.asked: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        name = request.query.get("q", request.path)
        self.asked[name] += 1
        await asyncio.sleep(self.latency_s)
        if self.broken or (name.startswith("shy") and self.asked[name] < 3):
            return web.Response(status=self.broken or 503)
        if request.path == "/search":
            hit = {"title": name, "url": "https://a.example/", "description": "d"}
            return web.json_response({"type": "search", "web": {"results": [hit]}})
        return web.Response(text=f"<title>{name}</title><p>The tide table.", content_type="text/html")


class Bench:
    """A task runner, and daemons that work for it, each with a data directory of its own."""

    def __init__(self, runner: Runner, internet: Internet, folder: Path) -> None:
        self.runner = runner
        self.internet = internet
        self.running: dict[str, DaemonProcess] = {}
        self._folder = folder
        self._starts = 0

    async def start(self, name: str, **more: str) -> DaemonProcess:
        self._starts += 1
        directory = self._folder / f"{name}-{self._starts}"
        directory.mkdir()
        settings = {
            **self.runner.environ,
            "TASK_SOURCE": "task-runner",
            "DATA_DIR": str(self._folder / name),
            "INSTANCE_ID": name,
            "LEASE_TTL": str(LEASE_TTL),
            "CONCURRENCY_LIMIT": "8",
            "BRAVE_URL": f"{self.internet.url}/search",
            "BRAVE_API_KEY": "key",
            "FETCH_DOMAIN_ALLOWLIST": "127.0.0.1",
            **more,
        }
        self.running[name] = await DaemonProcess(directory, settings).start()
        return self.running[name]

    async def until(self, holds: Callable[[], bool], timeout_s: float = GIVEN_UP_S) -> float:
        """Seconds until this holds; it may never do."""
        began_at = time.monotonic()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not holds():  # noqa: ASYNC110 - the servers have no event for it
                    await asyncio.sleep(0.02)
        return time.monotonic() - began_at

    def ended(self) -> bool:
        return not self.runner.states().keys() & {"queued", "running"}

    def left(self) -> str:
        """Objects without a row, rows without an object; ids in the queue, its other list and its set."""
        strays, index = self.runner.strays(), self.runner.index()
        return ", ".join(str(len(each)) for each in (*strays, *index))


@asynccontextmanager
async def bench(server: Server, redis: RedisServer, s3: S3) -> AsyncIterator[Bench]:
    redis.client.flushall()
    s3.clear()
    runner, internet = Runner(server.database(SCHEMA, HISTORY), redis, s3), Internet()
    site = web.ServerRunner(web.Server(internet.answer))
    await site.setup()
    await web.TCPSite(site, "127.0.0.1", 0).start()
    internet.url = f"http://127.0.0.1:{site.addresses[0][1]}"
    with tempfile.TemporaryDirectory() as folder:
        made = Bench(runner, internet, Path(folder))
        try:
            yield made
        finally:
            for process in made.running.values():
                await process.kill()
            await site.cleanup()
            runner.database.close()


# --- kills


def added(of: Bench, count: int) -> Mapping[str, list[str]]:
    """Tasks by how they must end, in a mixed order."""
    page, wrong = (
        f"{of.internet.url}/page",
        (("sleep", {"seconds": True}), ("search", {"query": "q", "recency_days": -1})),
    )
    kinds: list[tuple[str, int, Callable[[int], tuple[str, object]], dict[str, Any]]] = [
        ("completed", 200, lambda n: ("echo", {"n": n}), {"retries": 9}),
        ("completed", 100, lambda n: ("sleep", {"seconds": 1 + n / 33}), {"retries": 9}),
        ("completed", 80, lambda n: ("search", {"query": f"tide {n}"}), {"retries": 9}),
        ("completed", 20, lambda n: ("search", {"query": f" tide  {n % 5} ", "sources": ["BRAVE"]}), {"retries": 9}),
        ("completed", 10, lambda n: ("search", {"query": f"shy {n}"}), {"retries": 2}),
        ("completed", 10, lambda n: ("search_batch", {"queries": [f"batch {n}", "tide 1"]}), {"retries": 9}),
        ("completed", 50, lambda n: ("fetch_url", {"url": f"{page}{n}", "store_raw_html": n % 2 == 0}), {"retries": 9}),
        ("timed out", 10, lambda n: ("sleep", {"seconds": 60 + n}), {"timeout": 1, "retries": 1}),
        ("cancelled", 10, lambda n: ("sleep", {"seconds": 80 + n}), {}),
        ("rejected", 10, lambda n: wrong[n % 2], {"retries": 2}),
    ]
    tasks = [
        (how, *make(n), more) for how, most, make, more in kinds for n in range(max(1, round(most * count / TASKS)))
    ]
    random.Random(7).shuffle(tasks)
    found: dict[str, list[str]] = {}
    for how, task_type, params, more in tasks:
        found.setdefault(how, []).append(of.runner.add(task_type, params, **more))
    return found


#: state and error of tasks that end so
ENDS = {
    "completed": ("completed", None),
    "timed out": ("failed", "task timed out"),
    "cancelled": ("cancelled", None),
    "rejected": ("failed", "task_rejected_invalid_params"),
}


async def kills(of: Bench, plan: Plan) -> Section:
    """Daemons are killed while they work, and started again."""
    runner, deaths, rng = of.runner, 2 if plan.quick else KILLS, random.Random(7)
    tasks = added(of, plan.tasks(TASKS))
    began_at = time.monotonic()
    await asyncio.gather(*map(of.start, NAMES))
    for count in range(deaths):
        await asyncio.sleep(BETWEEN_S)
        name = rng.choice(NAMES)
        await of.running[name].kill()
        runner.database.execute(
            "INSERT INTO victims SELECT metadata_json->>'task_id' FROM runs WHERE status = 'running'"
            " AND starts_with(metadata_json->>'owner', %s)",
            f"atp:{name}:",
        )
        tell(f"task-runner: {name} was killed, {runner.states()}")
        await of.start(name)
        if count == deaths // 2:
            for task_id in tasks["cancelled"]:
                runner.cancel(task_id)
    await of.until(of.ended)
    took_s = time.monotonic() - began_at
    await of.until(lambda: of.left() == "0, 0, 0, 0, 0", 30)
    database = runner.database
    wrong = [task_id for how, ids in tasks.items() for task_id in ids if runner.row(task_id)[:2] != ENDS[how]]
    lost = database.rows(f"{NAMED} {LOST}")[0]
    twice = database.value(
        "SELECT count(*) FROM (SELECT FROM history WHERE state IN ('completed', 'failed', 'cancelled')"
        " GROUP BY task_id HAVING count(*) > 1) d"
    )
    open_runs = database.value(OPEN_RUNS)
    repeated_runs = database.value(
        "SELECT count(*) FROM (SELECT FROM runs WHERE status = 'completed' GROUP BY run_key HAVING count(*) > 1) d"
    )
    rows = database.rows(TAKEN_OVER)
    freed, again = ([row[column] for row in rows if row[column] is not None] for column in (0, 1))
    asked = sum(times - 1 for name, times in of.internet.asked.items() if not name.startswith("shy"))
    starts = database.value("SELECT sum(retry_count) FROM tasks")
    section = Section(
        "task-runner kills", f"{sum(map(len, tasks.values()))} mixed tasks, 2 daemons of 8 slots, {deaths} kills"
    )
    section.rows = [
        ("kills", "tasks cut off", "starts", "calls repeated", "queued: p50 s", "longest", "started: p50 s", "longest"),
        (
            *(str(deaths), str(len(freed)), str(starts), str(asked)),
            *(f"{percentile(each, share):.2f}" for each in (freed, again) for share in (0.5, 1.0)),
        ),
    ]
    ends, artifacts = f"{len(wrong)}, {twice}", f"{lost[0]}, {lost[1]}"
    runs = f"{open_runs}, {repeated_runs}"
    section.bounds = [
        Bound("tasks that end otherwise than they must, that end twice", ends, "0 each", ends == "0, 0"),
        Bound("artifacts that no result names, that are missing", artifacts, "0 each", artifacts == "0, 0"),
        Bound("runs that stay open, keys that completed twice", runs, "0 each", runs == "0, 0"),
        Bound("objects, rows and ids in Redis that are left", of.left(), "0 each", of.left() == "0, 0, 0, 0, 0"),
        at_most("from a kill until its tasks are queued again, longest, s", max(freed, default=0.0), LEASE_TTL + 3.0),
    ]
    section.figures = {"queued_again_s": freed, "started_again_s": again, "calls_repeated": asked, "seconds": took_s}
    return section


# --- faults: each returns what was measured, and whether it is what it must be

Told = tuple[str, bool]


async def mixed(of: Bench) -> Told:
    """50 mixed tasks: how long they take."""
    for n in range(50):
        kind = n % 4
        params = ({"n": n}, {"seconds": 0.1 + n / 100}, {"query": f"q {n}"}, {"url": f"{of.internet.url}/{n}"})[kind]
        of.runner.add(("echo", "sleep", "search", "fetch_url")[kind], params)
    await asyncio.gather(*map(of.start, NAMES))
    took_s = await of.until(of.ended)
    return f"{of.runner.states()} in {took_s:.1f} s", of.runner.states() == {"completed": 50} and took_s < 4


async def second_worker(of: Bench) -> Told:
    """A second daemon starts while a task runs."""
    of.runner.add("sleep", {"seconds": 3})
    await of.start("first")
    await of.until(lambda: of.runner.states() == {"running": 1})
    await of.start("second")
    await of.until(of.ended)
    counts = len(of.runner.runs()), len(of.runner.s3.names())
    return f"{counts[0]} runs, {counts[1]} artifacts", counts == (1, 1)


async def frozen(of: Bench) -> Told:
    """A daemon is stopped for longer than its lease, while it works, and goes on."""
    task_id = of.runner.add("sleep", {"seconds": 4})
    await asyncio.gather(*map(of.start, NAMES))
    await of.until(lambda: of.runner.states() == {"running": 1})
    ((owner,),) = of.runner.database.rows("SELECT metadata_json->>'owner' FROM runs")
    victim = of.running[owner.split(":")[1]]
    os.kill(victim.pid, signal.SIGSTOP)
    taken_s = await of.until(lambda: of.runner.row(task_id)[2] == 2)
    await of.until(of.ended)
    os.kill(victim.pid, signal.SIGCONT)
    await asyncio.sleep(3)
    row, left = of.runner.row(task_id), of.left()
    told = f"taken over after {taken_s:.1f} s; {row[0]}, error {row[1]}; left: {left}"
    return told, row[:2] == ("completed", None) and left == "0, 0, 0, 0, 0" and taken_s < LEASE_TTL + 3


async def outage(of: Bench) -> Told:
    """Ten searches meet 503 for 5 s, one sleep times out; two retries each."""
    of.internet.broken = 503
    ids = [of.runner.add("search", {"query": f"q {n}"}, retries=2) for n in range(10)]
    late = of.runner.add("sleep", {"seconds": 50}, timeout=1, retries=2)
    await of.start("first")
    await asyncio.sleep(5)
    of.internet.broken = 0
    took_s = await of.until(of.ended)
    done = sum(of.runner.row(task_id)[0] == "completed" for task_id in ids)
    row = of.runner.row(late)
    return f"{done} of 10 done {took_s:.1f} s later; {row}", done == 10 and row == ("failed", "task timed out", 3)


async def deadlines(of: Bench) -> Told:
    """A search of 6 s with a timeout of 2 s, and one that takes longer than any may (3 s)."""
    of.internet.latency_s = 6.0
    short, long = of.runner.add("search", {"query": "a"}, timeout=2), of.runner.add("search", {"query": "b"}, retries=2)
    await of.start("first", TASK_MAX_RUNTIME_SECONDS="3")
    await of.until(lambda: of.runner.row(short)[0] == "running")
    after = [await of.until(lambda each=each: of.runner.row(each)[0] == "failed") for each in (short, long)]  # type: ignore[misc]
    told = f"{of.runner.row(short)[1]} after {after[0]:.1f} s, {of.runner.row(long)[1]} after {sum(after):.1f} s"
    right = (of.runner.row(short)[1], of.runner.row(long)[1]) == ("task timed out", "task_runtime_exceeded")
    return f"{told}; left: {of.left()}", right and sum(after) < 4 and of.left() == "0, 0, 0, 0, 0"


async def cancelled(of: Bench) -> Told:
    """A running search is cancelled."""
    of.internet.latency_s = 5.0
    task_id = of.runner.add("search", {"query": "a"})
    await of.start("first")
    await of.until(lambda: of.runner.row(task_id)[0] == "running")
    await asyncio.sleep(1)
    of.runner.cancel(task_id)
    took_s = await of.until(lambda: of.runner.row(task_id)[0] == "cancelled")
    await asyncio.sleep(0.5)
    return f"after {took_s:.2f} s; left: {of.left()}", took_s < 1 and of.left() == "0, 0, 0, 0, 0"


async def database_cut(of: Bench) -> Told:
    """All connections to PostgreSQL are cut while 17 tasks run and wait."""
    for n in range(17):
        of.runner.add("sleep", {"seconds": 1 + n / 10})
    await of.start("first")
    await of.until(lambda: of.runner.states().get("completed", 0) >= 2)
    of.runner.database.end_sessions()
    await of.until(of.ended)
    starts = of.runner.database.value("SELECT sum(retry_count) FROM tasks")
    left = of.left()
    told = f"{of.runner.states()}, {starts} starts; left: {left}"
    return told, of.runner.states() == {"completed": 17} and left == "0, 0, 0, 0, 0"


async def s3_away(of: Bench) -> Told:
    """S3 is away for 15 s."""
    for n in range(20):
        of.runner.add("echo", {"n": n})
    of.runner.s3.stop()
    await of.start("first")
    await asyncio.sleep(15)
    waiting = of.runner.states().get("running", 0)
    of.runner.s3.start()
    took_s = await of.until(of.ended)
    starts = of.runner.database.value("SELECT sum(retry_count) FROM tasks")
    told = f"{waiting} wait; {of.runner.states()} {took_s:.1f} s after; {starts} starts; left: {of.left()}"
    return told, (of.runner.states(), starts, of.left()) == ({"completed": 20}, 20, "0, 0, 0, 0, 0")


async def redis_away(of: Bench) -> Told:
    """Redis is away for 10 s, and empty then, while 30 tasks come."""
    await of.start("first")
    of.runner.server.stop()
    for n in range(30):
        of.runner.add("sleep", {"seconds": 0.2 + n / 100}, push=False)
        await asyncio.sleep(10 / 30)
    done = of.runner.states().get("completed", 0)
    of.runner.server.start()
    await of.until(of.ended)
    took_s = await of.until(lambda: of.left() == "0, 0, 0, 0, 0", 20)
    told = f"{done} of 30 without it, {of.runner.states()}; queue right after {took_s:.1f} s"
    return told, of.runner.states() == {"completed": 30} and of.left() == "0, 0, 0, 0, 0"


async def terminated(of: Bench) -> Told:
    """SIGTERM while a long task runs."""
    task_id = of.runner.add("sleep", {"seconds": 60})
    first = await of.start("first", SHUTDOWN_GRACE_SECONDS="1")
    await of.until(lambda: of.runner.states() == {"running": 1})
    code = await first.stop()
    row, runs = of.runner.row(task_id), of.runner.runs()
    return f"exit {code}, {row}, run {runs[0][0]}", (code, row[0], runs[0][0]) == (0, "queued", "failed")


async def killed_thrice(of: Bench) -> Told:
    """A task without retries is killed three times."""
    task_id = of.runner.add("sleep", {"seconds": 2})
    for start in (1, 2, 3):
        await of.start("first")
        await of.until(lambda start=start: of.runner.row(task_id)[2] == start)  # type: ignore[misc]
        await of.running["first"].kill()
    await of.start("first")
    await of.until(of.ended, 60)
    row = of.runner.row(task_id)
    return str(row), row[:2] == ("completed", None)


async def equal(of: Bench) -> Told:
    """Twenty equal searches at once, two daemons; then one of a page with, and one without html."""
    of.internet.latency_s = 1.0
    await asyncio.gather(*map(of.start, NAMES))
    for _ in range(20):
        of.runner.add("search", {"query": "tides"})
    await of.until(of.ended)
    for html in (False, True):
        page = of.runner.add("fetch_url", {"url": f"{of.internet.url}/x", "store_raw_html": html})
        await of.until(of.ended)
    kinds = [kind for kind, _, _ in of.runner.artifacts(page)]
    calls = of.internet.asked["tides"]
    told = f"{calls} call, {of.runner.states()}; {kinds}"
    return told, (calls, kinds) == (1, ["fetch_text", "fetch_html"]) and of.runner.states() == {"completed": 22}


FAULTS: Mapping[str, Callable[[Bench], Awaitable[Told]]] = {
    "50 mixed tasks": mixed,
    "a second worker starts": second_worker,
    "a frozen owner thaws": frozen,
    "503 and a timeout, two retries": outage,
    "timeout 2 s, runtime 3 s": deadlines,
    "cancel of a running search": cancelled,
    "PostgreSQL connections cut": database_cut,
    "S3 away for 15 s": s3_away,
    "Redis away for 10 s, then empty": redis_away,
    "SIGTERM": terminated,
    "killed three times, no retries": killed_thrice,
    "equal searches, missing html": equal,
}


def task_runner(plan: Plan) -> list[Section]:
    """All of it, on servers of its own. ``TASK_RUNNER_BENCH``: names of scenarios, or ``kills``, with ``;`` between."""
    chosen = list(filter(None, os.environ.get("TASK_RUNNER_BENCH", "").split(";")))
    with tempfile.TemporaryDirectory(prefix="task-runner-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for each in ("pg", "redis", "s3"):
            (folder / each).mkdir()
        server, redis, s3 = Server(folder / "pg"), RedisServer(folder / "redis"), S3(folder / "s3")

        async def measured(work: Callable[[Bench], Awaitable[Any]]) -> Any:
            async with bench(server, redis, s3) as of:
                return await work(of)

        try:
            sections = []
            if not chosen or "kills" in chosen:
                sections.append(asyncio.run(measured(lambda of: kills(of, plan))))
            faults = Section("task-runner faults", "one scenario after the other, on new tables")
            faults.rows = [("scenario", "measured")]
            for what, scenario in FAULTS.items():
                if not chosen or what in chosen:
                    told, holds = asyncio.run(measured(scenario))
                    tell(f"task-runner: {what}: {told}")
                    faults.rows.append((what, told))
                    faults.bounds.append(Bound(what, "as it must" if holds else "otherwise", "as it must", holds))
            return [*sections, faults]
        finally:
            s3.stop()
            redis.stop()
            server.stop()
