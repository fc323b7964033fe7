# ruff: noqa: T201 - a script that prints its figures
"""Kill the daemon under load, break everything around it, and prove from outside that nothing was lost."""

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.chaos import scenarios, selfcheck, summaries
from tests.chaos.campaign import FULL, SHORT, Campaign, Scale
from tests.chaos.checker import Finding
from tests.chaos.history import History
from tests.chaos.launcher import POINTS, prepare
from tests.chaos.report import Line, Progress, figures, table

FIXED_SEED = 20_261
AT_ONCE = 2
#: timelines on the screen
SHOWN = 3
EPILOG = """\
what runs, about four minutes in all on two cores:
  main     2,000 tasks with a fixed seed. 12 % of all requests fail, the daemon is killed again and again
           (SIGKILL at random moments and at named points, SIGTERM, SIGSTOP), the upstream goes away and
           comes back elsewhere, tokens are revoked, the disk is full, the clock jumps
  points   one task and one kill at each named point: how often it is paid for and delivered is exact
  bugs     nine bugs, planted one at a time: each must be caught, and without it all must be well
  random   the main run in short, with a new seed
  summaries  100 summaries of ten parts and 20 kills: no call whose answer was stored is made again; and two
           more bugs

The judge is the upstream: it keeps a history of every exchange and what it did, and the checker asks of
every task whether it was lost, stuck, falsely failed, or repeated without an excuse (a lost answer, or a
kill within the moment that writing it down takes). The daemon's own words count for nothing.

when it fails, it says which figure, prints the timelines of the first tasks concerned, and keeps the
directory with the daemon's log, its data and all timelines. The same seed draws the same schedule and
the same faults, but not the same moments.

  make chaos                                  everything
  make chaos ARGS='--only main --seed 7'      the main run with another seed
  make chaos ARGS='--only bugs'               does the judge still catch what it has to?
  make chaos ARGS='--minutes 60'              everything, and then new seeds until the time is over
"""


class Run:
    """What was asked for, and the lines of the final table."""

    def __init__(self, directory: Path, progress: Progress) -> None:
        self.lines: list[Line] = []
        self._directory, self._progress = directory, progress

    async def campaign(self, name: str, seed: int, scale: Scale) -> None:
        """A main run, or a short one."""
        place = self._directory / f"{name}-{seed}"
        self._progress.say(f"{name}: seed {seed}")
        began = time.monotonic()
        run = Campaign(place, seed, scale, lambda done, what: self._progress.at(name, done, scale.tasks, what))
        async with run.world as world:
            await run.run()
            verdict = world.judge()
        self._progress.at(name, scale.tasks, scale.tasks, "done")
        took_s = time.monotonic() - began
        self.lines += figures(f"{name} (seed {seed}, {took_s:.0f} s)", verdict, scale, world.crashes)
        if verdict.findings:
            self._keep(place / "timelines.txt", world.history, verdict.findings)

    def _keep(self, place: Path, history: History, findings: Sequence[Finding]) -> None:
        """All timelines in a file, the first ones on the screen."""
        told = [
            f"{found.kind}: task {found.task_id}: {found.reason}\n" + "\n".join(history.timeline(found.task_id))
            for found in findings
        ]
        place.write_text("\n\n".join(told))
        self._progress.say("\n\n".join([*told[:SHOWN], f"all {len(told)} timelines: {place}"]))

    async def points(self) -> None:
        """One kill at each named point."""

        async def one(point: str) -> None:
            wrong = await scenarios.killed_at(point, self._directory / f"point-{point}")
            self.lines.append(Line("points", point, "; ".join(wrong) or "as it must be", not wrong))

        await self._all("points", one, POINTS)

    async def bugs(self) -> None:
        """Every scenario with its bug, and without."""

        async def one(name: str) -> None:
            without = await scenarios.play(name, self._directory / f"no-{name}")
            caught = await scenarios.play(name, self._directory / f"bug-{name}", planted=True)
            found = "; ".join(caught.violations) or "nothing"
            good = not without.violations and caught.convicted
            said = found if not without.violations else f"without the bug: {'; '.join(without.violations)}"
            self.lines.append(Line("bugs", name, said, good))

        await self._all("bugs", one, scenarios.SCENARIOS)

    async def summaries(self, seed: int) -> None:
        """Kills in the middle of tasks of many calls, and the bugs that only these show."""
        found = await summaries.play(self._directory / "summaries", random.Random(seed))
        said = "; ".join(found.wrong) or f"as it must be; {found.calls} calls, {found.repeated} of them again"
        name = f"{summaries.TASKS} of {summaries.PARTS} parts, {summaries.KILLS} SIGKILL"
        self.lines.append(Line("summaries", name, said, not found.wrong))
        for bug, charge in summaries.CHARGES.items():
            found = await summaries.play(self._directory / f"bug-{bug}", random.Random(seed), bug)
            caught = any(line.startswith(charge) for line in found.wrong)
            self.lines.append(Line("summaries", bug, "; ".join(found.wrong) or "nothing", caught))
        self._progress.at("summaries", 1, 1, "done")

    async def _all(self, part: str, play: Callable[[str], Awaitable[None]], names: Collection[str]) -> None:
        """A few at a time: most of each is waiting."""
        done, room = 0, asyncio.Semaphore(AT_ONCE)

        async def within(name: str) -> None:
            nonlocal done
            async with room:
                await play(name)
            done += 1
            self._progress.at(part, done, len(names), "")

        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(within(name))


async def everything(run: Run, only: str | None, seed: int | None, minutes: float | None) -> None:
    """The parts that were asked for."""
    began = time.monotonic()
    draw = random.SystemRandom()

    def wanted(name: str) -> bool:
        return only in (None, name)

    async def beside() -> None:
        """Most of all these is waiting, so they fit beside the main run."""
        if wanted("points"):
            await run.points()
        if wanted("bugs"):
            await run.bugs()
        if wanted("random"):
            await run.campaign("random", draw.getrandbits(32) if seed is None or only is None else seed, SHORT)

    async with asyncio.TaskGroup() as group:
        group.create_task(beside())
        if wanted("main"):
            await run.campaign("main", FIXED_SEED if seed is None else seed, FULL)
    if wanted("summaries"):
        await run.summaries(FIXED_SEED if seed is None else seed)
    while minutes is not None and time.monotonic() - began < 60 * minutes:
        await run.campaign("random", draw.getrandbits(32), SHORT)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=("main", "random", "bugs", "points", "summaries"), help="one part alone")
    parser.add_argument(
        "--seed", type=int, help=f"of the main run, or of the part that --only names (main: {FIXED_SEED})"
    )
    parser.add_argument("--minutes", type=float, help="go on with new seeds until so much time is over")
    arguments = parser.parse_args()
    selfcheck.run()
    console = Console()
    directory = Path(tempfile.mkdtemp(prefix="chaos-"))
    began = time.monotonic()
    prepare()
    with Progress(console) as progress:
        run = Run(directory, progress)
        try:
            asyncio.run(everything(run, arguments.only, arguments.seed, arguments.minutes))
        except KeyboardInterrupt:
            shutil.rmtree(directory)
            return 130
    console.print(table(run.lines, time.monotonic() - began))
    if all(line.good for line in run.lines):
        shutil.rmtree(directory)
        return 0
    print(f"logs, data and timelines: {directory}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
