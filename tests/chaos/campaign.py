"""The main run: one data directory, many lives, and everything goes wrong at once. Drawn from a seed."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal

from tests.chaos import faults
from tests.chaos.book import Sort
from tests.chaos.history import Exchange
from tests.chaos.launcher import POINTS
from tests.chaos.supervisor import World
from tests.chaos.upstream import Limit

Happening = Literal["away", "move", "rotate", "freeze", "disk", "later", "earlier"]
End = Literal["kill", "terminate"]
#: in this order, because the clock is put back after it was put forward
HAPPENINGS: tuple[Happening, ...] = (
    "later", "disk", "move", "away", "disk", "freeze", "rotate", "away", "disk", "freeze", "earlier",
)  # fmt: skip

#: of a hundred tasks; an input that is refused costs its whole batch a bisection
SORTS: Mapping[Sort, int] = {"text": 90, "plain": 5, "empty": 2, "refused-result": 2, "refused-input": 1}
#: a life that does not reach its end by itself is ended after this long
LONGEST_LIFE_S = 2.5
#: so many lives are spared until the daemon works at full load, which it shows by a model call for this many tasks
SPARED_SHARE, FULL_LOAD, LONGEST_RECOVERY_S = 0.6, 10, 8.0
AWAY_S, DISK_FULL_S, ROTATE_EACH_S = 3.0, 3.0, 4.0
#: a commit that failed is tried again each second
HEALED_S = 2.0
HOUR_S = 3600.0
LIMITS: tuple[Limit, ...] = ("honoured", "ignored", "refused")


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything."""

    tasks: int
    kills: int
    terminations: int
    #: without a task that settles; three times as long in all
    settle_s: float


FULL = Scale(tasks=2000, kills=20, terminations=3, settle_s=90.0)
SHORT = Scale(tasks=500, kills=6, terminations=1, settle_s=60.0)


@dataclass(frozen=True, slots=True)
class Life:
    """One incarnation: what happens around it, and how it ends.

    It is killed at its ``number``-th time at a kill ``point``, or after ``number`` more requests of ``kind``.
    ``spared``: only once it works at full load.
    """

    end: End
    happening: Happening | None
    spared: bool
    kind: Exchange
    number: int
    point: str = ""


def schedule(scale: Scale, rng: random.Random) -> list[Life]:
    """The lives of a run, in order; what happens is spread over them, as far as there is room."""
    kills: list[End] = ["kill"] * scale.kills
    ends = kills + ["terminate"] * scale.terminations
    rng.shuffle(ends)
    places = sorted(rng.sample(range(len(ends)), min(len(ends), len(HAPPENINGS))))
    chosen = sorted(rng.sample(range(len(HAPPENINGS)), len(places)))
    happenings = {place: HAPPENINGS[index] for place, index in zip(places, chosen, strict=True)}
    return [_life(end, happenings.get(place), rng) for place, end in enumerate(ends)]


def _life(end: End, happening: Happening | None, rng: random.Random) -> Life:
    kind: Exchange = rng.choice(("poll", "model", "patch"))
    spared = happening == "disk" or rng.random() < SPARED_SHARE
    at_point = end == "kill" and not spared and rng.random() < 0.6
    point = rng.choice([point for point in POINTS if point != "draining"]) if at_point else ""
    return Life(end, happening, spared, kind, rng.randint(1, 12), point)


class Campaign:
    """Lives a schedule through. ``tell`` is called with how many tasks have settled, and what goes on."""

    def __init__(self, directory: Path, seed: int, scale: Scale, tell: Callable[[int, str], None]) -> None:
        rng = random.Random(seed)
        self.scale = scale
        self.world = World(directory, random.Random(rng.random()), limit=rng.choice(LIMITS))
        self.world.upstream.choose = faults.drawn(random.Random(rng.random()))
        self.lives = schedule(scale, rng)
        self._rng, self._tell = rng, tell
        self._around: set[asyncio.Task[None]] = set()

    async def run(self) -> bool:
        """Live all lives, and one more without a violent end; true when everything settled in time."""
        world, book = self.world, self.world.upstream.book
        book.add(5, "unknown")
        for number, life in enumerate(self.lives, 1):
            self._feed(len(self.lives) + 1 - number)
            self._report(f"life {number} of {len(self.lives)}: {life.happening or life.point or life.kind}, {life.end}")
            await self._live(life)
        self._feed(0)
        self._report("settling")
        await world.start()
        settled = await self._settled()
        await asyncio.gather(*self._around)
        await world.terminate()
        return settled

    async def _settled(self) -> bool:
        """All of it, sooner or later: faults that meet probe after probe may take a minute, but not for ever."""
        loop, left, rest = asyncio.get_running_loop(), len(self.world.upstream.book.unfinished), self.scale.settle_s
        began_at = moved_at = loop.time()
        while not await self.world.settled(1.0):
            self._report("settling")
            now, before = loop.time(), left
            left = len(self.world.upstream.book.unfinished)
            moved_at = now if left < before else moved_at
            if now - moved_at > rest or now - began_at > 3 * rest:
                return False
        return True

    def _report(self, what: str) -> None:
        book = self.world.upstream.book
        self._tell(len(book.entries) - len(book.unfinished), what)

    def _feed(self, lives_left: int) -> None:
        """So many new tasks that every life has its share, and most of them ordinary."""
        book = self.world.upstream.book
        count = (self.scale.tasks - len(book.entries)) // (lives_left + 1)
        for _ in range(count):
            book.add(1, self._rng.choices(list(SORTS), list(SORTS.values()))[0])

    async def _live(self, life: Life) -> None:
        world = self.world
        await world.start(f"{life.point}:{life.number}" if life.point else "")
        await world.seen("poll", 1, LONGEST_LIFE_S)
        if life.spared:
            await world.until(self._at_full_load, LONGEST_RECOVERY_S)
        if life.happening:
            happens = asyncio.create_task(self._happen(life.happening), name=life.happening)
            self._around.add(happens)
            if life.happening == "disk":
                # What the disk refuses is in memory only: when the process dies with it, that is lost, and known to be.
                await happens
                await asyncio.sleep(HEALED_S)
        if life.point and await world.killed_itself(LONGEST_LIFE_S):
            return
        if not life.point:
            so_far = world.history.count(life.kind, world.incarnation)
            await world.seen(life.kind, so_far + life.number, LONGEST_LIFE_S)
        await (world.kill() if life.end == "kill" else world.terminate())

    def _at_full_load(self) -> bool:
        newest = reversed(self.world.history.events)
        own = takewhile(lambda event: event.kind != "started", newest)
        return any(event.kind == "model" and len(event.tasks) >= FULL_LOAD for event in own)

    async def _happen(self, happening: Happening) -> None:
        world, upstream = self.world, self.world.upstream
        match happening:
            case "away":  # nobody listens for a while; then the upstream is back where it was
                port = upstream.port
                upstream.stop()
                await asyncio.sleep(AWAY_S)
                await upstream.start(port)
            case "move":  # it is back at another address, which the next life is told
                upstream.stop()
                await upstream.start()
            case "rotate":
                for _ in range(3):
                    upstream.rotate()
                    await asyncio.sleep(ROTATE_EACH_S)
            case "freeze":
                await world.freeze()
            case "disk":
                world.set_disk(full=True)
                await asyncio.sleep(DISK_FULL_S)
                world.set_disk(full=False)
            case "later" | "earlier":
                world.step_clock(HOUR_S if happening == "later" else -HOUR_S)
