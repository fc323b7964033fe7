"""For every planted bug the shortest course of events that shows it: green without the bug, red with it. And one kill
at each named point.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from signal import SIGTERM

from tests.chaos import checker
from tests.chaos.history import Event
from tests.chaos.launcher import POINTS
from tests.chaos.supervisor import CONCURRENCY, World

#: An outage of a minute in a twentieth of the time. A probe is decided within milliseconds, so that is fair.
SPEED = 20
OPEN_S = (0.5, 1.5)
OUTAGE_S = 60.0 / SPEED
MOST_PROBES = 4
#: what was on its way when the circuit opened has arrived by then
QUIET_S = 0.3
STORM = 32
SETTLE_S = 15.0
#: so many model calls show whether all slots are in use again
FIRST_CALLS = 4
#: with its bug a scenario need not settle
PLANTED_S = 2.0
REACH_S, POINT_SETTLES_S = 15.0, 20.0
#: how often the model makes the vector, and how often the callback runs. What was received and is not on disk is paid
#: for twice, what was acknowledged and is not erased is delivered twice: the rest happens once.
ONCE, ONCE_OR_TWICE, TWICE = (1,), (1, 2), (2,)
PAID: Mapping[str, tuple[int, ...]] = {"model-answered": TWICE, "accepted": ONCE_OR_TWICE, "draining": ONCE_OR_TWICE}
DELIVERED: Mapping[str, tuple[int, ...]] = {"acknowledged": TWICE}


@dataclass(frozen=True, slots=True)
class Result:
    """What came out of one scenario: a line for each violation. ``convicted``: of what the bug had to be caught for."""

    violations: list[str]
    convicted: bool


@dataclass(frozen=True, slots=True)
class Scenario:
    """``play`` drives a world, and returns what it has to object to besides the checker.

    ``charge``: the beginning of what the planted bug must be caught for. A daemon that only crashes proves nothing.
    """

    play: Callable[[World], Awaitable[list[str]]]
    charge: str
    settings: Mapping[str, str] = field(default_factory=dict)
    open_s: tuple[float, float] | None = None


async def killed_under(fault: str, world: World) -> list[str]:
    """Every PATCH meets this fault until the daemon is killed with 12 results that wait.

    It is busy, or it saves states, loses callbacks, and the process is killed before it can tell again.
    """
    world.upstream.book.add(12)
    killed = False

    async def choose(asked: Event) -> str | None:
        return fault if asked.kind == "patch" and not killed else None

    world.upstream.choose = choose
    await world.start()
    events = world.history.events
    await world.until(lambda: len({event.tasks for event in events if event.kind == "patch"}) == 12, SETTLE_S)
    await asyncio.sleep(0.2)
    await world.kill()
    killed = True
    await world.start()
    return []


async def first_of_each(kind: str, fault: str, world: World) -> list[str]:
    """The first request about any new task meets this fault.

    A PATCH saves its state, loses its callback and is answered with 500; or the model lets its first callers wait for
    longer than anybody does.
    """
    world.upstream.book.add(12)
    met: set[str] = set()

    async def choose(asked: Event) -> str | None:
        new = asked.kind == kind and not met.issuperset(asked.tasks)
        met.update(asked.tasks if asked.kind == kind else ())
        return fault if new else None

    world.upstream.choose = choose
    await world.start()
    return []


async def stale_list(world: World) -> list[str]:
    """The second list is as old as its question, and arrives when everything in it has been acknowledged."""
    world.upstream.book.add(4)
    world.upstream.model_s = (0.3, 0.3)
    polls = 0

    async def choose(asked: Event) -> None:
        nonlocal polls
        polls += asked.kind == "poll"
        if asked.kind == "poll" and polls == 2:
            await world.until(lambda: not world.upstream.book.unfinished, 8.0)
            await asyncio.sleep(0.2)

    world.upstream.choose = choose
    await world.start()
    await world.seen("poll", 4, SETTLE_S)
    second = [event for event in world.history.events if event.kind == "poll"][1]
    return [] if second.intact else ["the stale list was not waited for"]


async def storm_of_401(world: World) -> list[str]:
    """The token is revoked while 32 results are on their way."""
    world.upstream.book.add(600)
    waiting, rotated = 0, asyncio.Event()

    async def choose(asked: Event) -> None:
        nonlocal waiting
        if asked.kind != "patch" or rotated.is_set():
            return
        waiting += 1
        if waiting >= STORM:
            world.upstream.rotate()
            rotated.set()
            return
        try:
            async with asyncio.timeout(0.3):
                await rotated.wait()
        except TimeoutError:
            waiting -= 1

    world.upstream.choose = choose
    await world.start()
    await world.settled(SETTLE_S)
    if not rotated.is_set():
        return [f"there were never {STORM} results on their way at once"]
    events = world.history.events
    at = checker.last(events, "rotated").at
    refused = sum(event.status == 401 for event in events)
    requests = len(checker.between(events, "token", at, at + 2.0))
    if refused < STORM:
        return [f"only {refused} requests were answered with 401"]
    return [f"token requests for {refused} answers with 401: {requests}"] if requests != 1 else []


async def outage_of_the_model(world: World) -> list[str]:
    """A minute without the model, in a twentieth of the time, and many tasks that want it."""
    for number in range(32):
        world.upstream.book.add(1, model=f"model-{number % 4}")
    down = True

    async def choose(asked: Event) -> str | None:
        return "500" if asked.kind == "model" and down else None

    world.upstream.choose = choose
    await world.start()
    await world.seen("model", 5, SETTLE_S)
    await world.until(lambda: time.monotonic() - checker.last(world.history.events, "model").ended > QUIET_S, SETTLE_S)
    since = time.monotonic()
    await asyncio.sleep(OUTAGE_S)
    down = False
    probes = len(checker.between(world.history.events, "model", since, since + OUTAGE_S))
    if not probes:
        return ["it was never probed"]
    return [f"requests during an outage ({MOST_PROBES} at most): {probes}"] if probes > MOST_PROBES else []


async def killed_at_full_load(world: World) -> list[str]:
    """After one SIGKILL with all slots taken the first model calls are as full as before."""
    world.upstream.book.add(6 * CONCURRENCY)
    world.upstream.model_s = (0.3, 0.3)
    await world.start()
    await world.seen("model", 1, SETTLE_S)
    await asyncio.sleep(0.1)
    await world.kill()
    await world.start()
    await world.seen("model", FIRST_CALLS, SETTLE_S)
    calls = [event for event in world.history.events if (event.kind, event.incarnation) == ("model", world.incarnation)]
    most = max((len(event.tasks) for event in calls[:FIRST_CALLS]), default=0)
    return [] if most >= CONCURRENCY / 2 else [f"after a crash: at most {most} of {CONCURRENCY} slots in a model call"]


async def refusals(world: World) -> list[str]:
    """The model refuses an input, the API refuses a result: both mean it."""
    book = world.upstream.book
    book.add(8)
    book.add(2, "refused-input")
    book.add(8)
    book.add(2, "refused-result")
    await world.start()
    await world.settled(3.0)
    await asyncio.sleep(1.5)
    return []


SCENARIOS: Mapping[str, Scenario] = {
    "no-outbox": Scenario(partial(killed_under, "500"), "paid again after stored"),
    "acknowledged-before-patch": Scenario(partial(first_of_each, "patch", "callback-lost"), "lost"),
    "kept-after-patch": Scenario(partial(killed_under, "callback-lost"), "lost"),
    "failed-on-timeout": Scenario(
        partial(first_of_each, "model", "drip"), "falsely failed", {"OPENAI_TIMEOUT": "0.5", "MAX_RETRIES": "0"}
    ),
    "no-stale-filter": Scenario(
        stale_list, "duplicated, unexplained", {"POLLING_INTERVAL_SECONDS": "0.2", "REQUEST_TIMEOUT": "10"}
    ),
    "token-per-401": Scenario(storm_of_401, "token requests", {"CONCURRENCY_LIMIT": "64"}),
    "unbounded-probes": Scenario(
        outage_of_the_model,
        "requests during an outage",
        {"CIRCUIT_BREAKER_THRESHOLD": "5", "CONCURRENCY_LIMIT": "32"},
        OPEN_S,
    ),
    "retry-of-400": Scenario(refusals, "repeated after a refusal"),
    "isolated-at-the-first-crash": Scenario(killed_at_full_load, "after a crash"),
}


async def play(name: str, directory: Path, *, planted: bool = False) -> Result:
    """One scenario to its end, with its bug or without, and everything that was wrong in it."""
    scenario = SCENARIOS[name]
    bug, settings = name if planted else "", scenario.settings
    async with World(directory, Random(0), settings=settings, bug=bug, open_s=scenario.open_s) as world:
        objections = await scenario.play(world)
        await world.seen("poll", 1, SETTLE_S)
        await world.settled(PLANTED_S if planted else SETTLE_S)
        await world.terminate()
        violations = [*objections, *_told(world.judge())]
    convicted = not world.crashes and any(line.startswith(scenario.charge) for line in violations)
    return Result([*world.crashes, *violations], convicted)


def _told(verdict: checker.Verdict) -> Iterator[str]:
    for kind in dict.fromkeys(finding.kind for finding in verdict.findings):
        yield f"{kind}: {verdict.count(kind)}"


async def killed_at(point: str, directory: Path) -> list[str]:
    """One task, one kill at a named point, one restart: everything that was wrong. What is paid for is exact."""
    assert point in POINTS
    async with World(directory, Random(0)) as world:
        world.upstream.book.add(1)
        (task_id,) = world.upstream.book.entries
        await world.start(f"{point}:1")
        if point == "draining":
            await world.seen("poll", 1, REACH_S)
            world.running.send_signal(SIGTERM)
        if not await world.killed_itself(REACH_S):
            return [f"{point} was never reached"]
        await world.start()
        await world.settled(POINT_SETTLES_S)
        await world.terminate()
        verdict = world.judge()
        own = [event for event in world.history.events if task_id in event.tasks]
    paid, delivered = sum(event.paid for event in own), sum(event.callback for event in own)
    wrong = [*world.crashes, *(f"{finding.kind}: {finding.reason}" for finding in verdict.findings)]
    if paid not in PAID.get(point, ONCE):
        wrong.append(f"paid for {paid} times")
    if delivered not in DELIVERED.get(point, ONCE):
        wrong.append(f"delivered {delivered} times")
    return wrong
