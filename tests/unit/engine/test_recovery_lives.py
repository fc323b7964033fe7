"""A thousand daemons that are killed: by chance, by a task, by several. Seeded, in virtual time."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, log
from statistics import mean

import pytest

from ai_task_processor.engine.isolation import SHARE
from tests.unit.engine.lives import Killer, Lives

SLOTS = 4
KILLS = 20
#: parts that can run at the same time, of so many seeds; and the seeds of each case of killers
PARTS, SEEDS = 4, 150
KILLER_SEEDS = 80

Draw = Callable[[random.Random], float]


def uniform(rng: random.Random) -> float:
    return rng.uniform(0.1, 10.0)


def logarithmic(rng: random.Random) -> float:
    """As many below one second as above."""
    return exp(rng.uniform(log(0.1), log(10.0)))


def two_kinds(rng: random.Random) -> float:
    return 10.0 if rng.random() < 0.1 else 0.3


def drawn(count: int, draw: Draw, seed: int) -> Mapping[str, float]:
    rng = random.Random(seed)
    return {f"task {number}": draw(rng) for number in range(count)}


async def killed_at_random(seed: int, draw: Draw, *, restarts_only: bool) -> Lives:
    """Twenty kills, one per 2 to 10 s, and always more to do."""
    rng = random.Random(seed)
    gaps = [rng.uniform(2.0, 10.0) for _ in range(KILLS)]
    takes = drawn(int(1.6 * SLOTS * sum(gaps) / mean(draw(rng) for _ in range(300))) + 50, draw, seed)
    lives = Lives(takes, slots=SLOTS, rng=rng, in_order=seed % 2 == 0, restarts_only=restarts_only)
    for gap in gaps:
        assert await lives.live(lives.time.at + gap), "there was not enough to do"
    return lives


@pytest.mark.parametrize("part", range(PARTS))
async def test_random_kills_quarantine_nobody_and_cost_no_throughput(part: int) -> None:
    """Beside a daemon that only restarts: 0.8 of what it does, whatever the mix; nobody isolated without two deaths."""
    for seed in range(part * SEEDS, (part + 1) * SEEDS):
        draw = (uniform, logarithmic, two_kinds)[seed % 3]
        lives = await killed_at_random(seed, draw, restarts_only=False)
        assert not lives.quarantined, seed
        assert all(lives.deaths[one] >= 2 for one in lives.isolated), seed
        restarts = await killed_at_random(seed, draw, restarts_only=True)
        assert len(lives.done) >= 0.8 * len(restarts.done), (seed, draw, len(lives.done), len(restarts.done))


@dataclass(frozen=True, slots=True)
class Case:
    """So many killers among 60 tasks, each at some point of its run; ``draw``: how long tasks take."""

    killers: int
    draw: Draw = uniform
    probability: float = 1.0


CASES = {
    "one": Case(1),
    "two": Case(2),
    "five, in turn": Case(5, lambda _: 1.0),
    "with companions of 10 s": Case(1, lambda _: 10.0),
    "every other time": Case(2, probability=0.5),
}


@pytest.mark.parametrize("name", CASES)
async def test_what_kills_the_process_is_quarantined_after_five_deaths(name: str) -> None:
    """And nothing else is: the companions are cleared and done, and isolation never cost more than a fifth."""
    case = CASES[name]
    for seed in range(KILLER_SEEDS):
        rng = random.Random(seed)
        takes = drawn(60, case.draw, seed)
        chosen = rng.sample(list(takes), case.killers)
        killers = {one: Killer(rng.uniform(0.05, 1.0) * takes[one], case.probability) for one in chosen}
        lives = Lives(takes, slots=SLOTS, rng=rng, killers=killers, in_order=seed % 2 == 0)
        while await lives.live(lives.time.at + 1e5):
            assert max(lives.deaths[one] for one in killers) <= 5, seed
            assert lives.lost_s <= SHARE * lives.time.at + 1.0, seed
        assert lives.quarantined <= killers.keys(), seed
        assert lives.quarantined | lives.done.keys() == takes.keys(), seed
        assert case.probability < 1.0 or lives.quarantined == killers.keys(), seed
        assert not lives.journal.in_flight_at_crash, seed
        assert all(lives.deaths[one] >= 2 for one in lives.isolated), seed
