"""Reminders: the real command, an API with its habits, a Kafka broker and a mail server."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from confluent_kafka import Message

from ai_task_processor.sandbox.due_soon import DueSoonApi, DueTask
from tests.contract.sinks.servers import Mailbox, broker, free_port, mail_server, messages
from tests.e2e.conftest import Start, eventually

TOPIC = "reminders"
FIELDS = {"task_id", "user_id", "title", "due_at", "remind_at", "message", "priority", "event_id"}


@dataclass(frozen=True, slots=True)
class Event:
    """A message of the topic."""

    key: str
    header: str
    value: Mapping[str, Any]

    @classmethod
    def of(cls, message: Message) -> "Event":
        key, header = message.key(), dict(message.headers() or ())["event_id"]
        assert isinstance(key, bytes)
        assert isinstance(header, bytes)
        return cls(key.decode(), header.decode(), json.loads(message.value() or b""))

    @property
    def reminder(self) -> tuple[int, str]:
        return self.value["task_id"], self.value["due_at"]


def of(task: DueTask) -> tuple[int, str]:
    """Task and due time, as the API writes them."""
    return task.id, task.due_at.isoformat()


@dataclass(slots=True)
class Room:
    """What a daemon talks to. The broker and the mail server need not be there yet."""

    api: DueSoonApi
    kafka: int
    smtp: int

    def settings(self, **more: str) -> dict[str, str]:
        given = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{self.kafka}", "SMTP_URL": f"smtp://127.0.0.1:{self.smtp}"}
        given |= {"SMTP_FROM": "reminders@example.com", "POLLING_INTERVAL_SECONDS": "0.5"}
        return {**self.api.environment(), **given, **more}

    async def events(self) -> list[Event]:
        return [Event.of(each) for each in await asyncio.to_thread(messages, self.kafka, TOPIC)]

    async def reminded(self, *tasks: DueTask, timeout: float = 20.0) -> list[Event]:
        """Wait until each of these is in the topic; the events: each once."""

        async def all_there() -> list[Event] | None:
            events = await self.events()
            return events if {of(task) for task in tasks} <= {event.reminder for event in events} else None

        events: list[Event] = await eventually(all_there, timeout)
        assert Counter(event.reminder for event in events).most_common(1)[0][1] == 1
        return events


@pytest.fixture
async def room() -> AsyncIterator[Room]:
    async with DueSoonApi() as api:
        yield Room(api, free_port(), free_port())


@asynccontextmanager
async def sinks(room: Room) -> AsyncIterator[Mailbox]:
    async with broker(room.kafka), mail_server(room.smtp) as mailbox:
        yield mailbox


async def test_a_task_is_reminded_of_once_for_each_due_time(bare_daemon: Start, room: Room) -> None:
    """Through a stop, a kill, and a task that is completed and opened again. Its fields are those of the topic."""
    api = room.api
    rent, stranger, nameless = api.add(600, "Pay the rent"), api.add(500), api.add(400, user_id="no-uuid")
    later, done = api.add(7200), api.add(300)
    done.completed = True
    del api.users[stranger.user_id]
    async with sinks(room) as mailbox:
        worker = await bare_daemon(**room.settings())
        events = await room.reminded(rent, stranger, nameless)
        assert len(events) == 3
        (event,) = [event for event in events if event.reminder == of(rent)]
        assert event.value.keys() == FIELDS
        assert (event.key, event.header) == (str(rent.id), event.value["event_id"])
        assert event.value["message"] == "Task due soon: Pay the rent"
        (mail,) = await eventually(lambda: mailbox.mails)
        assert (mail["To"], mail["Subject"]) == (api.users[rent.user_id], "Reminder: Pay the rent")
        assert f"Due: {rent.due_at.isoformat()} UTC" in mail.get_content()
        await eventually(lambda: len(worker.events("mail.skipped")) == 2)
        assert set(api.look_ups) == {rent.user_id, stranger.user_id}
        await worker.status_when(lambda status: status["outbox"]["waiting"] == 0)
        assert await worker.stop() == 0

        rent.completed = True
        lists = api.lists
        worker = await bare_daemon(**room.settings())
        await eventually(lambda: api.lists > lists + 1)
        rent.completed = False
        lists = api.lists
        await eventually(lambda: api.lists > lists + 1)
        await worker.kill()

        rent.due_at += timedelta(minutes=5)
        later.due_at -= timedelta(minutes=100)
        worker = await bare_daemon(**room.settings())
        events = await room.reminded(rent, later)
        assert len(events) == len({event.header for event in events}) == 5
        await eventually(lambda: len(mailbox.mails) == 3)
        assert worker.events("delivery.expired") == worker.events("task.dropped") == []


async def test_no_outage_loses_or_repeats_a_reminder(bare_daemon: Start, room: Room) -> None:
    """Of the API, the mail server or the broker; neither sink waits for the other, and a kill forgets neither."""
    api = room.api
    api.down = True
    first = api.add(600)
    worker = await bare_daemon(**room.settings())
    await eventually(lambda: worker.events("poll.failed"))
    async with broker(room.kafka):
        api.down = False
        await room.reminded(first)
        await eventually(lambda: worker.events("delivery.deferred"))  # there is no mail server
        await worker.kill()
        first.completed = True  # it is not listed any more
        worker = await bare_daemon(**room.settings())
        await eventually(lambda: worker.events("delivery.deferred"))
        assert len(await room.reminded(first)) == 1
    async with mail_server(room.smtp) as mailbox:
        second = api.add(500)  # there is no broker
        await eventually(lambda: len(mailbox.mails) == 2, timeout=20)
        async with broker(room.kafka):
            assert len(await room.reminded(second)) == 1
            await worker.status_when(lambda status: status["outbox"]["waiting"] == 0, timeout=20)
            assert await worker.stop() == 0
    assert sorted(mail["To"] for mail in mailbox.mails) == sorted(api.users.values())


async def test_a_sink_without_an_address_is_off_and_says_so(bare_daemon: Start, room: Room) -> None:
    """No address of a user is looked up for a mail that nobody sends. A wrong secret is named with its setting."""
    room.api.add(600)
    off = {"KAFKA_BOOTSTRAP_SERVERS": "", "SMTP_URL": ""}
    worker = await bare_daemon(**room.settings(**off))
    await worker.status_when(lambda status: status["remembered"] == 1 and status["outbox"]["waiting"] == 0)
    assert sorted(event["sink"] for event in worker.events("sink.disabled")) == ["kafka", "smtp"]
    assert room.api.look_ups == []
    assert await worker.stop() == 0
    worker = await bare_daemon(**room.settings(**off, API_SECRET="another secret than theirs"))
    (failed,) = await eventually(lambda: worker.events("poll.failed"))
    assert failed["reason"] == "the task API answered 403: correct API_SECRET"
