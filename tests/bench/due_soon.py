"""Reminders through kills and outages, with the real daemon, a Kafka broker and a mail server.

Each life of the daemon gets a burst of tasks and is killed at a random moment after it has listed them. Before some
bursts the API is down for a while, in some lives the broker is. What is counted at the end: reminders, by task and due
time, that are not in the topic or were not mailed; those that are there twice although no kill came in between; and
those that a kill explains.
"""

import asyncio
import json
import random
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from ai_task_processor.sandbox.due_soon import DueSoonApi
from tests.bench.contest import Plan, tell
from tests.bench.report import Bound, Section, at_most
from tests.contract.sinks.servers import HOST, Mailbox, broker, free_port, mail_server, messages
from tests.e2e.conftest import DaemonProcess, eventually

REMINDERS, KILLS, SLOTS = 200, 10, 8
TOPIC = "reminders"
#: a kill comes so many seconds after a list, at most: within the work on its tasks
LATEST_KILL_S = 0.15
#: lives (of KILLS) with an outage, and how long the API is down, seconds
API_DOWN, BROKER_DOWN, DOWN_S = {3, 7}, {5, 9}, 2.0


class Door:
    """A TCP proxy before a server that keeps its data: while it is shut, connections are refused."""

    def __init__(self, port: int, behind: int) -> None:
        self.port = port
        self._behind = behind
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def shut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            for writer in self._writers:
                writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            behind, before = await asyncio.open_connection(HOST, self._behind)
            self._writers |= {writer, before}
            await asyncio.gather(_pump(reader, before), _pump(behind, writer))
            self._writers -= {writer, before}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


@dataclass(slots=True)
class Seen:
    """Copies of one reminder: by when they came. ``ids``: of its events or mails."""

    times: list[float] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def repeats(self, kills: Sequence[float]) -> tuple[int, int]:
        """Copies after the first: those that a kill explains, and others."""
        times = sorted(self.times)
        explained = sum(any(a <= kill <= b for kill in kills) for a, b in pairwise(times))
        return explained, len(times) - 1 - explained


@dataclass(slots=True)
class Room:
    """Everything a daemon talks to, and its lives."""

    api: DueSoonApi
    door: Door
    kafka: int
    smtp: int
    mailbox: Mailbox
    directory: Path
    kills: list[float] = field(default_factory=list)
    #: by task and due time
    events: defaultdict[tuple[int, str], Seen] = field(default_factory=lambda: defaultdict(Seen))
    #: by address: each user has one task
    mailed: defaultdict[str, Seen] = field(default_factory=lambda: defaultdict(Seen))

    async def daemon(self) -> DaemonProcess:
        directory = self.directory / str(len(self.kills))
        directory.mkdir()
        settings = {
            **self.api.environment(),
            "DATA_DIR": str(self.directory / "data"),
            "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{self.door.port}",
            "SMTP_URL": f"smtp://{HOST}:{self.smtp}",
            "SMTP_FROM": "reminders@example.com",
            "POLLING_INTERVAL_SECONDS": "0.5",
            "CONCURRENCY_LIMIT": str(SLOTS),
        }
        return await DaemonProcess(directory, settings).start()

    def burst(self, count: int) -> None:
        for _ in range(count):
            self.api.add(random.uniform(600, 1500))

    async def kill(self, worker: DaemonProcess) -> None:
        await worker.kill()
        self.kills.append(time.time())
        await asyncio.sleep(0.1)  # the mail server has what was on its way
        self.note_mails()

    def note_mails(self) -> None:
        """Those that came in this life."""
        now = time.time() - 0.2
        for mail in self.mailbox.mails:
            seen = self.mailed[str(mail["To"])]
            seen.times.append(now)
            seen.ids.add(str(mail["Message-ID"]))
        self.mailbox.mails.clear()

    async def read_events(self) -> None:
        for message in await asyncio.to_thread(messages, self.kafka, TOPIC):
            event = json.loads(message.value() or b"")
            seen = self.events[event["task_id"], event["due_at"]]
            seen.times.append(message.timestamp()[1] / 1000)
            seen.ids.add(event["event_id"])


@asynccontextmanager
async def room() -> AsyncIterator[Room]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        api = await stack.enter_async_context(DueSoonApi())
        kafka, smtp = free_port(), free_port()
        door = Door(free_port(), kafka)
        await stack.enter_async_context(broker(kafka, advertised=door.port))
        mailbox = await stack.enter_async_context(mail_server(smtp))
        await door.open()
        try:
            yield Room(api, door, kafka, smtp, mailbox, directory)
        finally:
            await door.shut()


async def run(reminders: int, kills: int, rng: random.Random) -> Room:
    """All lives but the last end with a kill. The room is closed: what came is in it."""
    async with room() as here:
        api = here.api
        for life in range(1, kills + 1):
            tell(f"due-soon: life {life} of {kills}")
            api.down = life in API_DOWN
            if life in BROKER_DOWN:
                await here.door.shut()
            here.burst(reminders // kills)
            worker = await here.daemon()
            if api.down:
                await asyncio.sleep(DOWN_S)
                api.down = False
            lists = api.lists
            await eventually(lambda lists=lists: api.lists > lists, 60.0)
            await asyncio.sleep(rng.uniform(0.0, LATEST_KILL_S))
            await here.kill(worker)
            await here.door.open()
        worker = await here.daemon()
        await eventually(lambda: api.lists > lists + 2, 60.0)
        await worker.status_when(lambda status: status["outbox"]["waiting"] == 0, 120.0)
        await worker.stop()
        here.note_mails()
        await here.read_events()
        return here


def due_soon(plan: Plan) -> list[Section]:
    """For ``make bench``."""
    reminders = max(plan.tasks(REMINDERS), 5 * KILLS)
    began = time.monotonic()
    here = asyncio.run(run(reminders, KILLS, random.Random(7)))
    took_s = time.monotonic() - began
    section = Section("due-soon", f"{reminders} reminders, {KILLS} kills, outages of the API and the broker")
    section.rows.append(("where", "reminders", "lost", "repeated after a kill", "repeated otherwise", "with two ids"))
    wanted = {(task.id, task.due_at.isoformat()) for task in here.api.tasks.values()}
    for name, seen, lost in (
        ("topic", here.events, wanted - here.events.keys()),
        ("mail", here.mailed, set(here.api.users.values()) - here.mailed.keys()),
    ):
        repeats = [each.repeats(here.kills) for each in seen.values()]
        explained, others = (sum(counts) for counts in zip(*repeats, strict=True))
        doubled = sum(len(each.ids) > 1 for each in seen.values())
        section.rows.append((name, *map(str, (len(seen), len(lost), explained, others, doubled))))
        counts = len(lost), others, doubled
        what = f"{name}: lost, repeated without a kill, with two ids"
        section.bounds.append(Bound(what, ", ".join(map(str, counts)), "0, 0, 0", counts == (0, 0, 0)))
        section.bounds.append(at_most(f"{name}: repeated after a kill, for each kill", explained / KILLS, 1))
        section.figures[name] = {"reminders": len(seen), "explained": explained, "lost": len(lost), "others": others}
    section.figures["look_ups"] = Counter(here.api.look_ups).total()
    section.figures["seconds"] = took_s
    return [section]
