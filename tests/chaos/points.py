"""One task, one kill at a named point, one restart: how often it may be paid for and delivered is exact."""

from collections.abc import Mapping
from pathlib import Path
from random import Random
from signal import SIGTERM

from tests.chaos.launcher import POINTS
from tests.chaos.supervisor import World

REACH_S, SETTLE_S = 15.0, 20.0
#: how often the model makes the vector, and how often the callback runs. What was received and is not on disk is paid
#: for twice, what was acknowledged and is not erased is delivered twice: the rest happens once.
ONCE, ONCE_OR_TWICE, TWICE = (1,), (1, 2), (2,)
PAID: Mapping[str, tuple[int, ...]] = {"model-answered": TWICE, "accepted": ONCE_OR_TWICE, "draining": ONCE_OR_TWICE}
DELIVERED: Mapping[str, tuple[int, ...]] = {"acknowledged": TWICE}


async def killed_at(point: str, directory: Path) -> list[str]:
    """Everything that was wrong with one kill."""
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
        await world.settled(SETTLE_S)
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
