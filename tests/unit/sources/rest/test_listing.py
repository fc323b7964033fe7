"""The pending list is read as far as it is needed, whatever the upstream makes of ``limit``."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from ai_task_processor.core.errors import Ambiguous, InvalidAnswer, Misconfigured, RemoteError, Throttled, Transient
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.models.task import Task
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.rest import chunks, filling
from ai_task_processor.sources.rest import listing as nest_list
from ai_task_processor.sources.rest import page as nest_page
from ai_task_processor.sources.rest.listing import PendingList
from ai_task_processor.sources.rest.read_ahead import ENTRY_BYTES, ReadAhead
from ai_task_processor.sources.rest.settings import ApiSettings
from tests.mock_http import mock_client
from tests.nest import PROFILE

CHUNK = 2**16


def record(task_id: str, kind: str = "text_embedding", size: int = 0, **more: object) -> bytes:
    fields = {"_id": task_id, "type": kind, "state": "pending", "content": {"text": "x" * size}, **more}
    return json.dumps(fields).encode()


class Body(httpx2.AsyncByteStream):
    """An answer that counts what was taken of it, and then "hangs" or "fails" if that is its end."""

    def __init__(self, data: bytes, ends: str) -> None:
        self.sent = 0
        self.closed = False
        self._data = data
        self._ends = ends

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), CHUNK):
            chunk = self._data[start : start + CHUNK]
            self.sent += len(chunk)
            yield chunk
        if self._ends == "hangs":
            await asyncio.Event().wait()
        if self._ends == "fails":
            raise httpx2.ReadError("reset")

    async def aclose(self) -> None:
        self.closed = True


class Upstream:
    """Lists ``records``; ``limit`` is what it makes of the parameter; ``answers`` come before all that.

    ``ends``: as a list does, or it "fails" or "hangs" instead.
    """

    def __init__(
        self, records: Sequence[bytes] = (), limit: str = "honoured", *answers: httpx2.Response, ends: str = ""
    ) -> None:
        self.records = list(records)
        self.limit = limit
        self.answers = list(answers)
        self.asked: list[int | None] = []
        self.bodies: list[Body] = []
        self.ends = ends

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/api/ai-tasks/pending"
        limit = request.url.params.get("limit")
        self.asked.append(None if limit is None else int(limit))
        if self.answers:
            return self.answers.pop(0)
        if limit is not None and self.limit == "refused":
            return httpx2.Response(400, json={"statusCode": 400, "message": ["property limit should not exist"]})
        listed = self.records[: int(limit)] if limit is not None and self.limit == "honoured" else self.records
        self.bodies.append(Body(b"[" + b",".join(listed) + (b"," if self.ends else b"]"), self.ends))
        return httpx2.Response(200, stream=self.bodies[-1])


class Answers:
    """An admission made of two functions about one task."""

    def __init__(self, skip: Callable[[Task], SkipReason | None], busy: Callable[[str], SkipReason | None]) -> None:
        self._skip, self._busy = skip, busy

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        return {task_id: reason for task_id in task_ids if (reason := self._busy(task_id)) is not None}

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        return [self._skip(task) for task in tasks]


def only_embeddings(task: Task) -> SkipReason | None:
    return None if task.type == "text_embedding" else "unknown_type"


Make = Callable[..., PendingList]
Lines = list[Any]


@pytest.fixture(autouse=True)
def lines() -> Iterator[Lines]:
    """What the test writes to the log."""
    with capture_logs() as captured:
        yield captured


@pytest.fixture(params=[chunks.WHOLE_BYTES, -1], ids=["whole", "streamed"])
def make(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Short lists are parsed whole, or none is: nobody can tell the difference."""
    monkeypatch.setattr(chunks, "WHOLE_BYTES", request.param)

    def pending_list(
        upstream: Upstream,
        skip: Callable[[Task], SkipReason | None] = only_embeddings,
        busy: Callable[[str], SkipReason | None] = lambda _: None,
        ahead: ReadAhead | None = None,
        **settings: Any,
    ) -> PendingList:
        client = mock_client(upstream, "http://upstream", max_answer_bytes=None)
        options = {"API_BASE_URL": "http://upstream", **settings}
        metrics = Metrics(version="1", provider="mock")
        return PendingList(ApiSettings(**options), PROFILE, client, Answers(skip, busy), ahead=ahead, metrics=metrics)

    return pending_list


def tasks(*names: str) -> list[bytes]:
    return [record(name) for name in names]


def unknown(count: int) -> list[bytes]:
    return [record(f"u{n}", "unknown") for n in range(count)]


def large(count: int, size: int) -> list[bytes]:
    return [record(f"t{n:04d}", size=size) for n in range(count)]


def counted(pending: PendingList, name: str, **labels: str) -> float | None:
    assert pending._metrics is not None
    return pending._metrics.value(name, **labels)


async def test_it_brings_no_more_than_was_asked_for(make: Make) -> None:
    """The rest is left for the next poll."""
    page = await make(Upstream(tasks("a", "b", "c", "d"), "ignored")).read(2)
    assert (list(page.tasks), page.complete) == (["a", "b"], False)


async def test_an_empty_list_is_complete(make: Make) -> None:
    page = await make(upstream := Upstream()).read(5)
    assert (page.tasks, page.complete, page.seen, upstream.asked) == ({}, True, 0, [5])


async def test_what_is_worked_on_is_not_parsed_again(make: Make) -> None:
    """A task of the page before is known by its id, and its age still counts; the same id elsewhere is not."""
    asked: list[str] = []

    def skip(task: Task) -> SkipReason | None:
        asked.append(task.id)
        return None

    upstream = Upstream([record("a", createdAt="2026-01-01T00:00:00Z"), *tasks("b")])
    pending = make(upstream, skip, busy={"a": "running", "b": "in_outbox", "c": "running"}.get)
    page = await pending.read(2)
    assert list(page.tasks) == asked == ["a", "b"]
    upstream.records.append(b'{"x":{"_id":"a"},' + record("c")[1:])
    page = await pending.read(2)
    assert (list(page.tasks), asked[2:]) == (["c"], ["c"])
    assert page.skipped == {"running": 1, "in_outbox": 1}
    assert page.oldest == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    upstream.records[:2] = [record("a", content={"changed": True})]
    pending = make(upstream, skip)
    assert "a" in (await pending.read(2)).tasks


async def test_the_limit_covers_what_will_be_skipped(make: Make) -> None:
    """The next poll asks for what will be listed again and skipped, too: and not for what was settled meanwhile."""
    upstream = Upstream([record("x", "unknown"), *tasks("a", "b", "c")])
    running = {"a", "b"}
    pending = make(upstream, busy=lambda task_id: "running" if task_id in running else None)
    assert list((await pending.read(2)).tasks) == ["a"]
    await pending.read(3)
    running.remove("a")
    await pending.read(3)
    assert upstream.asked == [2, 5, 5]


async def test_a_refused_limit_is_not_sent_again(make: Make) -> None:
    """A strict upstream gets the same request without the parameter, at once and from then on."""
    pending = make(upstream := Upstream(tasks("a"), "refused"))
    assert list((await pending.read(1)).tasks) == ["a"]
    await pending.read(1)
    assert upstream.asked == [1, None, None]


async def test_a_limit_that_was_refused_before_a_cut_list_stays_refused(make: Make) -> None:
    """That the list works without the parameter is known as soon as it is answered."""
    pending = make(upstream := Upstream(tasks("a"), "refused", ends="fails"))
    assert list((await pending.read(3)).tasks) == ["a"]
    await pending.read(3)
    assert upstream.asked == [3, None, None]


async def test_another_400_does_not_stick(make: Make) -> None:
    """When the list is refused without the parameter as well, the parameter was not the reason."""
    pending = make(upstream := Upstream(tasks("a"), "honoured", httpx2.Response(400), httpx2.Response(400)))
    with pytest.raises(Misconfigured):
        await pending.read(1)
    await pending.read(1)
    assert upstream.asked == [1, None, 1]


async def test_it_stops_reading_when_it_has_enough(make: Make) -> None:
    """Of a hundred megabytes no more is taken than the tasks need, and a little: the answer is closed."""
    page = await make(upstream := Upstream(large(10_000, 10_000), "ignored")).read(5)
    assert len(page.tasks) == 5
    assert upstream.bodies[0].sent <= 5 * 10_200 + 2 * CHUNK + chunks.TAIL_BYTES
    assert upstream.bodies[0].closed


async def test_a_short_rest_is_read_to_keep_the_connection(make: Make) -> None:
    """What little follows the last task is taken, so that the connection can be used again."""
    upstream = Upstream([*tasks("a", "b"), record("c", size=CHUNK)], "ignored")
    await make(upstream).read(2)
    assert upstream.bodies[0].sent == len(b"[" + b",".join(upstream.records) + b"]")


@pytest.mark.parametrize("ends", ["fails", "hangs"])
async def test_no_end_is_needed(make: Make, ends: str, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """With enough in hand it does not matter how, or whether, the answer ends."""
    monkeypatch.setattr(chunks, "TAIL_S", 0.001)
    page = await make(Upstream(tasks("a", "b"), ends=ends)).read(2)
    assert (list(page.tasks), lines) == (["a", "b"], [])


async def test_unknown_tasks_at_the_head_do_not_starve_the_rest(make: Make) -> None:
    """Ten known tasks behind five thousand unknown ones are found in a dozen requests, and later in one."""
    pending = make(upstream := Upstream(unknown(5_000) + tasks(*known(*range(10)))))
    page = await pending.read(5)
    assert (list(page.tasks), page.skipped) == (known(*range(5)), {"unknown_type": 5_000})
    assert upstream.asked == [5 * 2**n for n in range(11)]
    assert len((await pending.read(5)).tasks) == 5
    assert upstream.asked[11:] == [5_005]


@pytest.mark.parametrize("limit", ["ignored", "refused"])
async def test_a_list_that_is_whole_is_not_read_again(make: Make, limit: str) -> None:
    """Where the limit has no effect, nothing to start is known after one reading."""
    page = await make(upstream := Upstream(unknown(100), limit)).read(5)
    assert (page.tasks, page.complete) == ({}, True)
    assert len(upstream.bodies) == 1


async def test_widening_ends_with_the_deadline(make: Make) -> None:
    """An upstream that always finds as many unknown tasks as are asked for holds one poll, not the daemon."""

    class Endless(Upstream):
        def __call__(self, request: httpx2.Request) -> httpx2.Response:
            self.records = [b'{"_id":"u","type":"x"}'] * int(request.url.params["limit"])
            return super().__call__(request)

    pending = make(Endless(), REQUEST_TIMEOUT="0.2")
    with pytest.raises(Ambiguous, match="no answer within"):
        await pending.read(1)
    assert pending.last_page.seen > 1, "the next poll begins where this one stood"


async def test_a_task_that_is_listed_twice_is_started_once(make: Make) -> None:
    page = await make(Upstream(tasks("a", "b", "a"))).read(5)
    assert (list(page.tasks), page.skipped) == (["a", "b"], {"duplicate": 1})


async def test_bad_records_spoil_only_themselves(make: Make, lines: Lines) -> None:
    """Among junk of every kind the good records are found, and each bad one is told once."""
    junk = [b"{", b'{"_id":"../x","type":"t"}', b"NaN", b'"\xff"', record("big", size=2**20), b'{"_id":"n"}']
    pending = make(Upstream([record("a"), *junk[1:], record("b")]))
    page = await pending.read(10)
    await pending.read(10)
    assert (list(page.tasks), page.skipped) == (["a", "b"], {"invalid": 5})
    assert [line["event"] for line in lines] == ["record.skipped"] * 5
    assert lines[-1]["task_id"] == "n"


async def test_bad_records_do_not_flood_the_log(make: Make, lines: Lines) -> None:
    """Thousands of them make a hundred lines; once a whole list was clean, they are told again."""
    bad = [b'{"_id":"n%d"}' % n for n in range(3_000)]
    pending = make(upstream := Upstream(bad, "ignored"))
    for _ in range(3):
        await pending.read(5)
    assert len(lines) == nest_page.REPORTED_RECORDS
    for upstream.records in ([], bad[:1]):
        await pending.read(5)
    assert len(lines) == nest_page.REPORTED_RECORDS + 1


async def test_what_came_before_a_cut_is_used(make: Make, lines: Lines) -> None:
    """A reset in the middle costs nothing that was read before it, and a steady one is told once."""
    pending = make(Upstream(tasks("a", "b"), ends="fails"))
    for _ in range(3):
        assert list((await pending.read(5)).tasks) == ["a", "b"]
    assert [line["event"] for line in lines if line["log_level"] == "warning"] == ["poll.cut"]


@pytest.mark.parametrize("length", [1, 30, 60])
async def test_a_list_cut_before_its_first_record_is_an_error(make: Make, length: int) -> None:
    answer = httpx2.Response(200, content=(b"[" + record("a") + b"]")[:length])
    with pytest.raises(InvalidAnswer):
        await make(Upstream([], "honoured", answer)).read(5)


@pytest.mark.parametrize("listed", [["a"], []])
async def test_the_deadline_is_total(make: Make, listed: list[str]) -> None:
    """A list that never ends is left at the deadline: with what it brought, or as an error."""
    pending = make(Upstream(tasks(*listed), ends="hangs"), REQUEST_TIMEOUT="0.05")
    with nullcontext() if listed else pytest.raises(Ambiguous):
        assert list((await pending.read(5)).tasks) == listed != []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (httpx2.Response(200, text="<html>"), InvalidAnswer),
        (httpx2.Response(200, json={"data": []}), InvalidAnswer),
        (httpx2.Response(503), Transient),
        (httpx2.Response(429, headers={"Retry-After": "nan"}), Throttled),
        (httpx2.Response(404), Misconfigured),
    ],
)
async def test_what_is_no_list_is_an_error(make: Make, answer: httpx2.Response, error: type[RemoteError]) -> None:
    with pytest.raises(error) as caught:
        await make(Upstream([], "honoured", answer)).read(5)
    assert type(caught.value) is error


async def test_answers_proves_the_list_by_its_first_record(make: Make) -> None:
    """The check takes one record of a long list, the end of an empty one, and nothing less."""
    upstream = Upstream(large(1_000, 10_000))
    await make(upstream).answers()
    assert upstream.bodies[0].sent == CHUNK
    await make(Upstream()).answers()
    for bad in (httpx2.Response(200, text="["), httpx2.Response(200, text="{}"), httpx2.Response(502)):
        upstream.answers = [bad]
        with pytest.raises(RemoteError):
            await make(upstream).answers()


async def test_every_request_is_counted_by_its_status(make: Make) -> None:
    """A refused and a good request are two, under the route's template."""
    pending = make(Upstream(tasks("a"), "refused"))
    await pending.read(1)
    labels = {"endpoint": "/api/ai-tasks/pending", "method": "GET"}
    expected = {"200": 1, "400": 1, "none": 0}
    assert {code: counted(pending, "api_requests_total", **labels, status_code=code) for code in expected} == expected


async def test_the_oldest_task_is_known(make: Make) -> None:
    """The earliest creation time of all that was read, the epoch included."""
    upstream = Upstream([record("a", createdAt="1970-01-01T00:00:00Z"), record("c", createdAt="never")])
    upstream.records.insert(1, record("b", "unknown", createdAt="2024-01-01T00:00:00Z"))
    assert (await make(upstream).read(9)).oldest == 0.0


async def test_others_run_while_a_long_list_is_read(make: Make) -> None:
    """However large the chunks, the loop is given back after every few records."""
    upstream = Upstream(unknown(2_000), "ignored")
    considered: list[int] = []
    turns: list[int] = []

    def counting(task: Task) -> SkipReason:
        considered.append(1)
        return "unknown_type"

    async def other() -> None:
        while True:
            turns.append(len(considered))
            await asyncio.sleep(0)

    running = asyncio.create_task(other())
    await make(upstream, counting).read(1)
    running.cancel()
    assert len(considered) == 2_000
    most = nest_list.PIECE_BYTES / len(upstream.records[0]) + 2
    assert max(after - before for before, after in pairwise(turns)) <= most


# --- types that nobody here takes


def told(lines: Lines) -> list[tuple[str, str]]:
    return [(line["event"], line["task_type"]) for line in lines if line["event"].startswith("type.")]


async def test_an_unknown_type_is_told_once_and_when_it_is_gone(make: Make, lines: Lines) -> None:
    """Each poll lists it again: one line at its first, one when a whole list has none of it, and one if it returns."""
    upstream = Upstream([record("1", "horoscope"), record("2", "tarot"), record("3", "horoscope"), record("4")])
    pending = make(upstream)
    for _ in range(3):
        await pending.read(2)
    assert told(lines) == [("type.skipped", "horoscope"), ("type.skipped", "tarot")]
    del upstream.records[1]
    await pending.read(2)
    assert told(lines[2:]) == [("type.gone", "tarot")]
    upstream.records.append(record("5", "tarot"))
    await pending.read(2)
    assert told(lines[3:]) == [("type.skipped", "tarot")]
    assert {line["log_level"] for line in lines if line["event"] == "type.skipped"} == {"warning"}


@pytest.mark.parametrize("limit", ["honoured", "ignored"])
async def test_a_list_not_read_to_its_end_says_nothing_of_what_is_gone(make: Make, limit: str, lines: Lines) -> None:
    """Behind the tasks that were enough, or behind the limit, there may be more of that type."""
    pending = make(upstream := Upstream([record("1", "horoscope")], limit))
    await pending.read(1)
    upstream.records[:0] = [record("2", "tarot"), record("3", "tarot"), *tasks("4", "5")]
    await pending.read(1)
    assert told(lines) == [("type.skipped", "horoscope"), ("type.skipped", "tarot")]


async def test_types_from_outside_do_not_flood_the_log(make: Make, lines: Lines) -> None:
    """1,000 of them are 20 lines, whatever order they come in; of a hostile name remains what is harmless."""
    pending = make(upstream := Upstream([record(str(n), f"type\n{n}\u202e{'x' * 5_000}") for n in range(1_000)]))
    for _ in range(2):
        await pending.read(1)
        upstream.records.reverse()
    assert told(lines) == [("type.skipped", f"type?{n}?{'x' * 80}"[:64]) for n in range(20)]


# --- read ahead


def read_ahead(max_bytes: int = 2**22, max_age_s: float = 30.0) -> ReadAhead:
    return ReadAhead(max_bytes, max_age_s, lambda: 100.0)


def known(*numbers: int) -> list[str]:
    return [f"k{number}" for number in numbers]


@pytest.mark.parametrize("limit", ["ignored", "refused"])
async def test_one_list_serves_many_refills(make: Make, limit: str) -> None:
    """Of an API that lists everything, 100 tasks in 5 slots take one list, in its order, each once."""
    pending = make(upstream := Upstream(tasks(*known(*range(100))), limit), ahead=(ahead := read_ahead()))
    found = list((await pending.read(5)).tasks)
    page = pending.last_page
    assert (page.seen, page.kept, page.complete, len(ahead)) == (100, 95, True, 95)
    while taken := await pending.take(5):
        found += taken
    assert found == known(*range(100))
    assert len(upstream.bodies) == 1
    assert counted(pending, "listed_records_total") == 100


@pytest.mark.parametrize("ahead", [None, read_ahead(0), read_ahead(max_age_s=0.0)])
async def test_it_can_be_switched_off(make: Make, ahead: ReadAhead | None) -> None:
    """With 0 of either, a list is left when it has brought enough, and nothing is kept."""
    pending = make(Upstream(tasks(*known(*range(100))), "ignored"), ahead=ahead)
    for _ in range(2):
        page = await pending.read(5)
        assert (list(page.tasks), page.kept, page.complete) == (known(*range(5)), 0, False)
        assert await pending.take(5) == {}


async def test_a_list_that_is_honestly_limited_is_never_kept(make: Make) -> None:
    """Limits, pages and tasks are the same with and without, also when what was in the way has gone meanwhile."""
    seen: list[list[object]] = []
    for ahead in (None, read_ahead()):
        upstream = Upstream(unknown(3) + tasks(*known(*range(60))))
        running: set[str] = set()
        pending = make(upstream, busy=lambda name, here=running: "running" if name in here else None, ahead=ahead)
        pages: list[object] = []
        for number in range(12):
            page = await pending.read(3)
            pages += [list(page.tasks), page.seen, page.skipped, page.complete, await pending.take(3)]
            running |= set(page.tasks)
            if number % 3 == 2:
                del upstream.records[:6]
                running.clear()
        seen.append([upstream.asked, pages])
    assert seen[0] == seen[1]


async def test_thousands_of_unknown_tasks_are_not_listed_for_each_refill(make: Make) -> None:
    """5,000 of them ahead of 10 known ones: all ten come of one list. Ahead of 1,000 they cost one record each."""
    pending = make(upstream := Upstream(unknown(5_000) + tasks(*known(*range(10)))), ahead=read_ahead())
    assert list((await pending.read(5)).tasks) == known(*range(5))
    before = len(upstream.asked)
    assert list(await pending.take(5)) == known(*range(5, 10))
    upstream.records = unknown(5_000) + tasks(*known(*range(10, 1_010)))
    found: list[str] = []
    while taken := await pending.take(5) or (await pending.read(5)).tasks:
        found += taken
        if len(found) == 1_000:
            break
    assert found == known(*range(10, 1_010))
    assert upstream.asked[before:] == [10_005]


@pytest.mark.parametrize(("lasting", "limit"), [(100, 105), (101, 207), (600, 1_000), (996, 1_997)])
async def test_no_more_is_asked_for_than_an_api_may_allow(make: Make, lasting: int, limit: int) -> None:
    """A hundred skipped records are cheap; 1,000 is the most that some APIs accept, unless one has answered more."""
    pending = make(upstream := Upstream(unknown(lasting), "ignored"), ahead=read_ahead())
    await pending.read(5)
    await pending.read(5)
    assert upstream.asked == [5, limit]


async def test_reading_ahead_is_bounded_in_bytes(make: Make) -> None:
    pending = make(upstream := Upstream(large(10_000, 900), "ignored"), ahead=(ahead := read_ahead(2**20)))
    page = await pending.read(5)
    assert page.kept == len(ahead) == 2**20 // (len(upstream.records[5]) + ENTRY_BYTES)
    assert not page.complete
    assert upstream.bodies[0].sent <= 2**20 + 5 * 1_100 + 2 * CHUNK + chunks.TAIL_BYTES
    assert upstream.bodies[0].closed


@pytest.mark.parametrize("ends", ["fails", "hangs"])
async def test_no_end_is_needed_ahead(make: Make, ends: str, monkeypatch: pytest.MonkeyPatch, lines: Lines) -> None:
    """What was listed before is started and kept, without a word."""
    monkeypatch.setattr(filling, "AHEAD_S", 0.01)
    pending = make(Upstream(tasks(*known(*range(30))), "ignored", ends=ends), ahead=read_ahead())
    page = await pending.read(2)
    assert (list(page.tasks), page.kept, page.complete) == (known(0, 1), 28, False)
    assert list(await pending.take(100)) == known(*range(2, 30))
    assert lines == []


async def test_a_deadline_while_reading_ahead_leaves_what_was_kept(make: Make) -> None:
    """The tasks in hand are used, and so are the candidates."""
    upstream = Upstream(tasks(*known(*range(30))), "ignored", ends="hangs")
    pending = make(upstream, ahead=read_ahead(), REQUEST_TIMEOUT="0.05")
    page = await pending.read(2)
    assert (list(page.tasks), page.kept, len(await pending.take(100))) == (known(0, 1), 28, 28)


async def test_a_desert_is_left_for_another_time(make: Make) -> None:
    """Behind 2,000 records in a row that nobody wants, no more candidates are looked for; later they are found."""
    upstream = Upstream([*tasks("a", "b"), *(record(f"u{n}", "x") for n in range(2_100)), *tasks("c", "d")], "ignored")
    pending = make(upstream, ahead=read_ahead())
    page = await pending.read(1)
    assert (list(page.tasks), page.kept, page.seen) == (["a"], 1, 2 + filling.BARREN_RECORDS)
    assert list(await pending.take(5)) == ["b"]
    del upstream.records[:2]
    page = await pending.read(1)
    assert (list(page.tasks), page.kept, page.complete) == (["c"], 1, True)


async def test_candidates_are_asked_about_again_when_they_start(make: Make) -> None:
    """Whatever speaks against one by then passes it over; the others keep their order. What is paused waits here."""
    refused: dict[str, SkipReason] = {}
    upstream = Upstream([*tasks(*known(*range(8))), *tasks("k3")], "ignored")
    pending = make(upstream, lambda task: refused.get(task.id), ahead=(ahead := read_ahead()))
    page = await pending.read(1)
    assert (page.kept, page.skipped) == (7, {"duplicate": 1})
    refused |= {"k1": "in_outbox", "k2": "paused", "k4": "deferred", "k5": "stale"}
    ahead.drop("k6")
    assert list(await pending.take(9)) == ["k3", "k7"]
    expected = {"in_outbox": 1, "deferred": 1, "stale": 1, "paused": 0}
    assert {reason: counted(pending, "tasks_skipped_total", reason=reason) for reason in expected} == expected
    refused.clear()
    assert list(await pending.take(9)) == ["k2"]


async def test_a_list_of_which_nothing_may_start_is_given_up(make: Make) -> None:
    """After 200 refusals in a row nothing more is parsed, and no more than 2,000 that are paused: those stay."""
    asked: list[str] = []
    reason: SkipReason | None = None

    def skip(task: Task) -> SkipReason | None:
        asked.append(task.id)
        return reason

    pending = make(Upstream(tasks(*known(*range(3_000))), "ignored"), skip, ahead=(ahead := read_ahead()))
    await pending.read(1)
    reason, asked[:] = "paused", []
    assert await pending.take(5) == {}
    assert (len(asked), len(ahead)) == (nest_list.PAUSED_AT_ONCE, 2_999)
    reason, asked[:] = "deferred", []
    assert await pending.take(5) == {}
    assert (len(asked), len(ahead)) == (nest_list.REFUSED_IN_A_ROW, 0)


async def test_what_started_from_candidates_is_in_the_way_of_the_next_list(make: Make) -> None:
    """As if a poll had handed it out: the next limit covers it, and it is not parsed again."""
    parsed: list[str] = []
    running: set[str] = set()

    def skip(task: Task) -> SkipReason | None:
        parsed.append(task.id)
        return None

    upstream = Upstream(tasks(*known(*range(6))), "ignored")
    busy = dict.fromkeys(known(*range(5)), "running").get
    pending = make(upstream, skip, busy=lambda name: busy(name) if name in running else None, ahead=read_ahead())
    running |= set((await pending.read(2)).tasks) | set(await pending.take(3))
    parsed.clear()
    assert list((await pending.read(1)).tasks) == ["k5"]
    assert upstream.asked == [2, 6]
    assert parsed == ["k5"]


@pytest.mark.parametrize("answer", [httpx2.Response(204), httpx2.Response(200), httpx2.Response(200, content=b"")])
async def test_no_bytes_are_an_empty_list(make: Make, answer: httpx2.Response) -> None:
    """Some handlers return nothing when nothing is pending: that is a whole list, for polls and for the check."""
    pending = make(Upstream([], "honoured", answer, answer))
    page = await pending.read(5)
    assert (page.tasks, page.complete) == ({}, True)
    await pending.answers()
