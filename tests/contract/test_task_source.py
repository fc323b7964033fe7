"""The NestJS source: what every source promises, then what this one does beyond."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing as closing
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ai_task_processor.core.errors import (
    Ambiguous,
    CircuitOpen,
    InvalidAnswer,
    Misconfigured,
    NeverAcknowledged,
    Rejected,
    RemoteError,
    Throttled,
    Transient,
    Unacknowledged,
    Unauthorized,
    Unsent,
    explained,
)
from ai_task_processor.core.ports import Want
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.models.task import Failed, Failure, Outcome, Receipt, TaskStatus
from ai_task_processor.net.client import HttpClient, make_client
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sources.rest.settings import ApiSettings
from ai_task_processor.testing.memory import MemoryOutbox
from ai_task_processor.testing.source import OUTPUT, SOURCE_PROMISES, VECTOR, Gatekeeper, HandClock, SourcePromise
from tests.contract.helpers import failing
from tests.mock_http import mock_client
from tests.nest import NestSource


@dataclass(frozen=True)
class Bearer:
    """``net.client.Tokens`` with one token."""

    value: str

    async def token(self) -> "Bearer":
        return self

    async def renewed(self, stale: object) -> "Bearer":
        return self

    def refused(self, token: object) -> None:
        """It is the only one."""


class NestRemotehood:
    """The NestJS source against the sandbox, or with a client of something else at ``url``."""

    def __init__(
        self, client: HttpClient, url: str, sandbox: Any = None, marks: bool = False, metrics: Any = None, **more: Any
    ) -> None:
        self.clock = HandClock()
        self.admission = Gatekeeper()
        self.sandbox: Sandbox = sandbox
        self.metrics: Metrics = metrics or Metrics(version="1", provider="mock")
        poll_gate, self.delivery_gate = (
            Gate(service, threshold=1_000, clock=self.clock, metrics=self.metrics)
            for service in ("api_poll", "api_delivery")
        )
        self.source = NestSource(
            ApiSettings(**{"API_BASE_URL": url, **more}),  # by the names of the environment
            polling=client,
            delivering=client,
            poll_gate=poll_gate,
            delivery_gate=self.delivery_gate,
            memory=MemoryOutbox(2**30, self.clock) if marks else None,
            clock=self.clock,
            metrics=self.metrics,
        )

    async def report(self, task_id: str, outcome: Outcome = VECTOR) -> None:
        await self.source.report(Receipt("aletheia", task_id), outcome)

    def add(self, text: str) -> str:
        return self.sandbox.tasks.add(text)

    def put_back(self, task_id: str) -> None:
        self.sandbox.tasks.settle(self.sandbox.tasks[task_id], TaskStatus.PENDING)

    def refuse(self, task_id: str) -> None:
        self.sandbox.faults.add("patch", status=400, task_id=task_id)

    def call(self) -> None:
        self.source.wake()

    def break_down(self) -> None:
        self.sandbox.faults.add("pending", status=503)
        self.sandbox.faults.add("patch", status=503)

    def state(self, task_id: str) -> str:
        return self.sandbox.tasks[task_id].state.value

    def polls(self, outcome: str) -> float | None:
        return self.metrics.value("polls_total", outcome=outcome)


async def bearer(sandbox: Sandbox) -> Bearer:
    credentials = sandbox.tokens.credentials
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{sandbox.url}/oauth2/token",
            data={"grant_type": "client_credentials"},
            auth=(credentials.client_id, credentials.client_secret),
        )
    return Bearer(answer.json()["access_token"])


@asynccontextmanager
async def running_nest(marks: bool = False, **options: Any) -> AsyncIterator[NestRemotehood]:
    async with Sandbox() as sandbox:
        client = make_client(
            NetworkSettings(), url=sandbox.url, connections=8, tokens=await bearer(sandbox), max_answer_bytes=None
        )
        async with closing(client):
            yield NestRemotehood(client, sandbox.url, sandbox, marks, **options)


@pytest.fixture
async def nest() -> AsyncIterator[NestRemotehood]:
    async with running_nest() as running:
        yield running


async def claimed(case: NestRemotehood, limit: int = 10) -> list[str]:
    return [claim.task.id for claim in await case.source.claim(Want(limit, case.admission))]


@pytest.mark.parametrize("promise", SOURCE_PROMISES, ids=lambda promise: promise.__name__)
async def test_it_keeps_the_promises_of_a_source(promise: SourcePromise, nest: NestRemotehood) -> None:
    await promise(nest)


async def test_wait_returns(nest: NestRemotehood) -> None:
    """Without news it returns false after the time it was given."""
    began_at = nest.clock.monotonic()
    assert await nest.source.wait(3.0) is False
    assert nest.clock.monotonic() - began_at <= 3.0


async def test_a_call_ends_the_wait(nest: NestRemotehood) -> None:
    """When there may be work it returns true, long before its time."""
    nest.clock.stopped = True
    for _ in range(3):
        waiting = asyncio.ensure_future(nest.source.wait(3_600.0))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        nest.call()
        async with asyncio.timeout(5):
            assert await waiting is True


async def test_calls_while_nobody_waits_end_the_next_wait(nest: NestRemotehood) -> None:
    """A call during a poll is not lost; a thousand calls are one; a wait that was given up takes none with it."""
    nest.clock.stopped = True
    given_up = asyncio.ensure_future(nest.source.wait(3_600.0))
    await asyncio.sleep(0.01)
    given_up.cancel()
    await asyncio.wait([given_up])
    for _ in range(1_000):
        nest.call()
    await claimed(nest)
    async with asyncio.timeout(5):
        assert await nest.source.wait(3_600.0) is True
    nest.clock.stopped = False
    assert await nest.source.wait(3.0) is False


# --- the NestJS source: what is claimed


@pytest.mark.parametrize("limit", ["honoured", "ignored", "refused"])
async def test_every_habit_of_limit_leads_to_all_tasks(nest: NestRemotehood, limit: Any) -> None:
    """A backlog is worked off in order, a few at a time, whatever the API makes of the limit."""
    nest.sandbox.api.limit = limit
    ids = [nest.add(f"text {n}") for n in range(23)]
    found: list[str] = []
    while claims := await claimed(nest, 5):
        found += claims
        nest.admission.refused |= dict.fromkeys(claims, "running")
    assert found == ids
    assert nest.sandbox.stats.polls <= 7


async def endless(nest: NestRemotehood, count: int = 10) -> list[str]:
    """An API that lists everything, of which the first task was claimed: the ids of the others, which are kept."""
    nest.sandbox.api.limit = "ignored"
    ids = [nest.add(f"text {n}") for n in range(count)]
    assert await claimed(nest, 1) == ids[:1]
    nest.admission.refused[ids[0]] = "running"
    assert nest.source.backlog.read_ahead == nest.metrics.value("read_ahead_tasks") == count - 1
    return ids[1:]


async def test_one_list_serves_many_refills(nest: NestRemotehood) -> None:
    """Where the limit is ignored, a poll is made when no candidate is left; what it saw stays what is told."""
    ids = await endless(nest)
    assert await claimed(nest, 4) == ids[:4]
    assert (nest.source.backlog.seen, nest.metrics.value("pending_tasks_seen")) == (10, 10)
    assert await claimed(nest, 9) == ids[4:]
    assert (nest.sandbox.stats.polls, nest.source.backlog.read_ahead) == (1, 0)
    nest.admission.refused |= dict.fromkeys(ids, "running")
    assert await claimed(nest) == []
    assert nest.sandbox.stats.polls == 2
    assert nest.polls("tasks") == nest.polls("empty") == 1
    assert nest.metrics.value("listed_records_total") == 20


@pytest.mark.parametrize("name", ["READ_AHEAD_BYTES", "READ_AHEAD_SECONDS"])
async def test_reading_ahead_can_be_switched_off(name: str) -> None:
    """Then each refill is a poll, and an edited task is processed as it is now."""
    async with running_nest(False, **{name: "0"}) as nest:
        nest.sandbox.api.limit = "ignored"
        ids = [nest.add(f"text {n}") for n in range(10)]
        for polls in (1, 2):
            assert await claimed(nest, 2) == ids[:2]
            assert (nest.sandbox.stats.polls, nest.source.backlog.read_ahead) == (polls, 0)


@pytest.mark.parametrize(("waited_s", "polls"), [(29.9, 1), (30.0, 2)])
async def test_a_list_is_used_for_as_long_as_it_may_be(nest: NestRemotehood, waited_s: float, polls: int) -> None:
    """A task that was deleted after it was listed is started within READ_AHEAD_SECONDS, and not later."""
    first, second, *_ = await endless(nest)
    nest.sandbox.tasks.settle(nest.sandbox.tasks[first], TaskStatus.FAILED)
    nest.clock.time += waited_s
    assert await claimed(nest, 1) == [first if polls == 1 else second]
    assert nest.sandbox.stats.polls == polls


async def test_a_wake_up_brings_a_new_list(nest: NestRemotehood) -> None:
    """What was kept is replaced: who called knows something that the old list does not say."""
    first, second, *_ = await endless(nest)
    nest.sandbox.tasks.settle(nest.sandbox.tasks[first], TaskStatus.FAILED)
    nest.call()
    assert await claimed(nest, 1) == [second]
    assert nest.sandbox.stats.polls == 2


async def test_a_candidate_that_was_acknowledged_does_not_start(nest: NestRemotehood) -> None:
    """An operator's retry may settle it while it waits here: for as long as the list is used it is stale."""
    first, second, *_ = await endless(nest)
    await nest.report(first)
    nest.put_back(first)
    nest.clock.time += 29.0
    assert await claimed(nest, 1) == [second]
    nest.clock.time += 1.0
    assert first in await claimed(nest, 20), "put back, and listed again"


@pytest.mark.parametrize("status", [404, 409])
async def test_a_candidate_that_is_gone_does_not_start(nest: NestRemotehood, status: int) -> None:
    """The answer to a PATCH says so: it is dropped, and the list of which it came is believed no longer."""
    first, second, *_ = await endless(nest)
    told = f'{{"statusCode": {status}, "message": "no"}}'
    nest.sandbox.faults.add("patch", status=status, content=told, task_id=first)
    await failing(Rejected, nest.report(first))
    nest.sandbox.tasks.settle(nest.sandbox.tasks[first], TaskStatus.FAILED)
    assert await claimed(nest, 1) == [second]
    assert nest.sandbox.stats.polls == 2


async def test_a_released_candidate_comes_with_a_later_list(nest: NestRemotehood) -> None:
    """It was taken, and is not put back: the others come first."""
    first, second, third, *_ = await endless(nest)
    assert await claimed(nest, 1) == [first]
    await nest.source.release(Receipt("aletheia", first), 5.0)
    await nest.source.release(Receipt("aletheia", second), 5.0)
    assert await claimed(nest, 1) == [third]
    nest.clock.time += 30.0
    assert await claimed(nest, 2) == [first, second]


@pytest.mark.parametrize("status", [200, 204])
async def test_no_bytes_are_an_empty_list(nest: NestRemotehood, status: int) -> None:
    """A handler that returns nothing when nothing is pending: no error, and the check is content."""
    nest.sandbox.faults.add("pending", status=status, body="empty")
    assert await claimed(nest) == []
    await nest.source.check()
    assert (nest.polls("empty"), nest.source.backlog.complete) == (1, True)


@pytest.mark.parametrize("before", [True, False])
async def test_a_list_that_is_older_than_an_acknowledgement(nest: NestRemotehood, before: bool) -> None:
    """Acknowledged while the list was under way, a task does not start again; acknowledged before, it was put back."""
    task_id = nest.add("hello")
    stale = b'[{"_id":"%s","type":"text_embedding","state":"pending","content":"hello"}]' % task_id.encode()
    nest.sandbox.faults.add("pending", content=stale.decode(), delay_s=0.1)
    if before:
        await nest.report(task_id)
    polling = asyncio.create_task(claimed(nest))
    await asyncio.sleep(0.03)
    if not before:
        await nest.report(task_id)
    assert await polling == ([task_id] if before else [])
    assert nest.metrics.value("tasks_skipped_total", reason="stale") == (0 if before else 1)


async def test_what_a_poll_saw_is_counted(nest: NestRemotehood) -> None:
    """Skipped tasks by reason, the number seen, whether that was all, and the requests made."""
    nest.admission.refused = {nest.add("a"): "running", nest.add("b"): "unknown_type"}
    nest.sandbox.tasks.add_raw(b'{"_id":7}')
    nest.add("c")
    with capture_logs():
        await claimed(nest, 5)
    seen = {reason: nest.metrics.value("tasks_skipped_total", reason=reason) for reason in ("running", "invalid")}
    assert seen == {"running": 1, "invalid": 1}
    assert nest.metrics.value("pending_tasks_seen") == 4
    assert nest.metrics.value("pending_list_complete") == 1
    assert nest.source.backlog.skipped == {"running": 1, "unknown_type": 1, "invalid": 1}
    labels = {"endpoint": "/api/ai-tasks/pending", "method": "GET", "status_code": "200"}
    assert nest.metrics.value("api_requests_total", **labels) == 1


@pytest.mark.parametrize(
    ("fault", "error", "outcome"),
    [
        ({"status": 401}, Unauthorized, "auth_error"),
        ({"status": 403}, Unauthorized, "auth_error"),
        ({"status": 404}, Misconfigured, "client_error"),
        ({"status": 429, "headers": {"Retry-After": "7"}}, Throttled, "throttled"),
        ({"status": 503, "headers": {"Retry-After": "7"}}, Throttled, "throttled"),
        ({"status": 500}, Transient, "server_error"),
        ({"status": 200, "body": "html"}, InvalidAnswer, "invalid"),
        ({"status": 200, "body": "object"}, InvalidAnswer, "invalid"),
        ({"reset": True}, Ambiguous, "network_error"),
    ],
)
async def test_a_poll_is_counted_by_how_it_ended(
    nest: NestRemotehood, fault: dict[str, Any], error: type[RemoteError], outcome: str
) -> None:
    """Every kind of failure has its error and its outcome, and good polls have theirs."""
    await claimed(nest, 5)
    nest.add("hello")
    await claimed(nest, 5)
    assert (nest.polls("empty"), nest.polls("tasks")) == (1, 1)
    nest.sandbox.faults.add("pending", **fault)
    await failing(error, claimed(nest, 5))
    assert nest.polls(outcome) == 1


async def test_what_was_no_poll_is_not_counted(nest: NestRemotehood) -> None:
    """A poll that the gate held back, and one that was cancelled, say nothing about the API."""
    nest.sandbox.faults.add("pending", status=429, headers={"Retry-After": "60"}, times=1)
    await failing(Throttled, claimed(nest, 5))
    await failing(CircuitOpen, claimed(nest, 5))
    nest.clock.time += 61
    nest.sandbox.faults.add("pending", hang=True)
    polling = asyncio.create_task(claimed(nest))
    await asyncio.sleep(0.05)
    polling.cancel()
    await asyncio.wait([polling])
    assert nest.polls("throttled") == 1
    assert nest.polls("network_error") == 0
    assert nest.metrics.value("poll_duration_seconds_count") == 1


async def test_a_closed_port_is_unsent(nest: NestRemotehood) -> None:
    """With nobody there, nothing was sent: polls, reports and checks say so."""
    await nest.sandbox.aclose()
    for attempt in (claimed(nest, 5), nest.report("a"), nest.source.check()):
        await failing(Unsent, attempt)


# --- the NestJS source: what an answer to a PATCH means


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"status": 401}, Unauthorized),
        ({"status": 403}, Unauthorized),
        ({"status": 429, "headers": {"Retry-After": "7"}}, Throttled),
        ({"status": 503, "headers": {"Retry-After": "7"}}, Throttled),
        ({"status": 503}, Ambiguous),
        ({"status": 500}, Ambiguous),
        ({"status": 502, "body": "html"}, Ambiguous),
        ({"status": 408}, Transient),
        ({"status": 404}, Misconfigured),
        ({"status": 404, "body": "html"}, Misconfigured),
        ({"status": 302, "body": "html"}, Misconfigured),
        ({"status": 400}, Rejected),
        ({"status": 413}, Rejected),
        ({"status": 422}, Rejected),
        ({"status": 409}, Rejected),
        ({"status": 200, "body": "html"}, Unacknowledged),
        ({"content": '{"_id":"another","state":"succeeded"}'}, Unacknowledged),
        ({"content": "{}", "headers": {"Content-Encoding": "gzip"}}, Unacknowledged),
        ({"content": "{}", "headers": {"Content-Encoding": "br"}}, Unacknowledged),
        ({"reset": True}, Ambiguous),
        ({"truncate": True}, Ambiguous),
    ],
)
async def test_what_an_answer_to_a_result_means(
    nest: NestRemotehood, fault: dict[str, Any], error: type[Exception]
) -> None:
    """Nothing but an acknowledgement acknowledges; everything else says whose fault it is."""
    task_id = nest.add("hello")
    nest.sandbox.faults.add("patch", **fault)
    caught = await failing(error, nest.report(task_id))
    assert getattr(caught, "retry_after_s", None) == (7.0 if error is Throttled else None)


async def test_a_callback_that_throws_leaves_it_open(nest: NestRemotehood) -> None:
    """The state was saved and the answer was 500: that is no acknowledgement, and repeating it is right."""
    task_id = nest.add("hello")
    nest.sandbox.faults.add("callback", status=500, times=1)
    await failing(Ambiguous, nest.report(task_id))
    assert nest.state(task_id) == "succeeded"
    assert nest.sandbox.tasks[task_id].callbacks == 0
    await nest.report(task_id)
    assert nest.sandbox.tasks[task_id].callbacks == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"content": '{"ok":true}'},
        {"content": "\ufeff"},
        {"content": '"OK"'},
        *({"status": status, "body": "empty"} for status in (200, 201, 202, 205)),
        {"status": 204, "body": "empty", "headers": {"Content-Encoding": "gzip"}},
        {"status": 200, "body": "empty", "headers": {"Content-Encoding": "gzip"}},
    ],
    ids=str,
)
async def test_an_answer_without_id_and_state_is_told_once(nest: NestRemotehood, fault: dict[str, Any]) -> None:
    """It acknowledges; one warning for the process says that nothing could be verified."""
    nest.sandbox.faults.add("patch", **fault)
    with capture_logs() as lines:
        for _ in range(3):
            await nest.report(nest.add("hello"))
    assert [line["event"] for line in lines] == ["delivery.unverified"]


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", None),
        (b"HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n", None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nOK", Unacknowledged),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 2\r\n\r\n{}", Unacknowledged),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Ambiguous),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Ambiguous),
    ],
    ids=repr,
)
async def test_an_answer_is_empty_only_when_it_ended(raw: bytes, error: type[RemoteError] | None) -> None:
    """On the wire: no body in every framing acknowledges, one that breaks off does not."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(raw)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, closing(make_client(NetworkSettings(), url=url, connections=1)) as client:
        reported = NestRemotehood(client, url).report("a", OUTPUT)
        await (reported if error is None else failing(error, reported))


BEFORE = '{"_id":"%s","state":"pending"}'


async def test_reports_that_are_never_acknowledged_end_in_a_pause(nest: NestRemotehood) -> None:
    """The third old document in a row pauses for five minutes with what to change; an acknowledgement ends that."""
    task_id = nest.add("hello")
    old = nest.sandbox.faults.add("patch", content=BEFORE % task_id, after=True)
    for error in (Unacknowledged, Unacknowledged, NeverAcknowledged, CircuitOpen):
        await failing(error, nest.report(task_id), r"return the updated document \(\{new: true\}\) or nothing")
    assert nest.source.report_problem == nest.delivery_gate.reason
    for wait_s in (299.0, 2.0, 299.0, 2.0):
        nest.clock.time += wait_s
        with pytest.raises(RemoteError):
            await nest.report(task_id)
    assert (old.hits, nest.sandbox.tasks[task_id].callbacks) == (5, 5)
    nest.sandbox.faults.clear()
    nest.clock.time += 301
    await nest.report(task_id)
    assert (nest.delivery_gate.reason, nest.source.report_problem) == (None, None)
    await nest.report(nest.add("other"))


async def test_an_old_document_now_and_then_pauses_nothing(nest: NestRemotehood) -> None:
    """A lagging replica answers the task as it was before; the repeated report is acknowledged."""
    for _ in range(5):
        task_id = nest.add("hello")
        nest.sandbox.faults.add("patch", content=BEFORE % task_id, after=True, times=1, task_id=task_id)
        await failing(Unacknowledged, nest.report(task_id))
        await nest.report(task_id)
        await nest.report(nest.add("other"))
    assert nest.source.report_problem is None


async def test_marks_are_no_reports() -> None:
    """What is answered to a mark says nothing about acknowledgements: it runs no callback."""
    async with running_nest(marks=True) as nest:
        for n in range(5):
            task_id = nest.add(f"text {n}")
            nest.sandbox.faults.add("patch", content=BEFORE % task_id, times=1, task_id=task_id)
        assert len(await claimed(nest)) == 5
        assert nest.state(task_id) == "pending"
        assert nest.source.report_problem is None


async def test_marks_are_set_with_the_claim_and_taken_back_with_its_release() -> None:
    """What the API says is somebody else's is not claimed."""
    async with running_nest(marks=True) as nest:
        taken, ours = nest.add("a"), nest.add("b")
        nest.sandbox.faults.add("patch", status=409, times=1, task_id=taken)
        assert await claimed(nest) == [ours]
        assert nest.state(ours) == "in_progress"
        await nest.source.release(Receipt("aletheia", ours), 0.0)
        assert nest.state(ours) == "pending"
        assert await claimed(nest) == [ours], "the other one is left alone for a minute"


@pytest.mark.parametrize(
    ("fault", "detail"),
    [
        ({"status": 400, "content": '{"statusCode":400,"message":["result must be an array"]}'},
         "result must be an array"),
        ({"status": 500, "content": '{"statusCode":500,"message":"no callback \\"verification_x\\" for 0.25"}'},
         'no callback "verification_x" for …'),
        ({"status": 403, "content": '{"message":"Forbidden resource","statusCode":403}'}, "Forbidden resource"),
        ({"status": 401, "content": '{"title":"Unauthorized","detail":"scope tasks.write is missing"}'},
         "scope tasks.write is missing"),
        ({"status": 503, "content": "upstream connect error: 0.25"}, "upstream connect error: …"),
        ({"status": 200, "content": '{"success":false,"message":"no database"}'}, "no database"),
        ({"status": 200, "content": "OK, I have it"}, "OK, I have it"),
        ({"status": 200, "content": "<title>Sign in</title>"}, "Sign in"),
        ({"status": 200, "content": '{"state":"pending","error":"text of a user"}'}, "state pending"),
        ({"status": 200, "content": '{"state":"by nobody known","id":"a b"}'}, "id ?"),
    ],
)  # fmt: skip
async def test_the_apis_own_words_go_with_its_refusal(nest: NestRemotehood, fault: dict[str, Any], detail: str) -> None:
    """Rejected or not, what the API says about it is kept, without numbers of the result."""
    nest.sandbox.faults.add("patch", **fault)
    with pytest.raises((Rejected, RemoteError)) as raised:
        await nest.report(nest.add("hello"))
    caught = raised.value
    assert isinstance(caught, Rejected | RemoteError)
    assert caught.detail == detail
    assert explained(caught) == (f"{caught}: {detail}" if detail else str(caught))


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_names_the_setting(nest: NestRemotehood, status: int) -> None:
    """To https of the same host: that. Elsewhere: where, without path and credentials. Both pause at once."""
    host = nest.sandbox.url.removeprefix("http://").partition(":")[0]
    for location, reason in (
        (f"https://{host}/api/ai-tasks/x?token=s3cret", f"a redirect to https://{host}: use https in API_BASE_URL"),
        ("https://a:b@login.test:8443/x?y=z", "a redirect to https://login.test:8443: correct API_BASE_URL"),
    ):
        nest.sandbox.faults.add("patch", status=status, body="empty", headers={"Location": location}, times=1)
        nest.sandbox.faults.add("pending", status=status, body="empty", headers={"Location": location}, times=1)
        told = f"the task API answered {status}, {reason}"
        for attempt in (nest.report(nest.add("a")), claimed(nest, 5)):
            assert str(await failing(Misconfigured, attempt)) == told
        assert nest.delivery_gate.reason == told
        nest.clock.time += 301


async def test_a_strict_api_gets_bare_failures(nest: NestRemotehood) -> None:
    """A refused reason is repeated once without it; when that was accepted, reasons are not sent any more."""
    nest.sandbox.api.forbid_unknown_keys = True
    for text, patches in (("a", 2), ("b", 3)):
        task_id = nest.add(text)
        await nest.report(task_id, Failed(Failure("too_long")))
        assert (nest.state(task_id), nest.sandbox.stats.patches) == ("failed", patches)


async def test_a_refusal_for_another_reason_is_not_remembered(nest: NestRemotehood) -> None:
    """When the bare failure is refused as well, the reason was not the trouble: the next task sends its own."""
    refused, fine = nest.add("a"), nest.add("b")
    nest.refuse(refused)
    await failing(Rejected, nest.report(refused, Failed(Failure("x"))))
    assert nest.sandbox.stats.patches == 2
    await nest.report(fine, Failed(Failure("too_long", "why")))
    assert nest.sandbox.tasks[fine].error == {"code": "too_long", "message": "why"}


@pytest.mark.parametrize("status", [404, 409, 413, 500])
async def test_only_a_refused_body_is_sent_bare(nest: NestRemotehood, status: int) -> None:
    """Another answer to a failure is what it is, after one request."""
    task_id = nest.add("a")
    nest.sandbox.faults.add("patch", status=status)
    with pytest.raises((Rejected, RemoteError)):
        await nest.report(task_id, Failed(Failure("x")))
    assert nest.sandbox.stats.patches == 1


async def test_polls_and_reports_have_gates_of_their_own(nest: NestRemotehood) -> None:
    """While results are held back, polls go on, and the other way round."""
    task_id = nest.add("a")
    nest.sandbox.faults.add("patch", status=429, headers={"Retry-After": "60"})
    await failing(Throttled, nest.report(task_id))
    await failing(CircuitOpen, nest.report(task_id))
    assert nest.sandbox.stats.patches == 1
    assert await claimed(nest) == [task_id]


# --- the NestJS source: paths


#: one for many: to make it takes longer than the rest
METRICS = Metrics(version="1", provider="mock")


async def path_of(task_id: str) -> bytes | None:
    """The path that a result for this id is sent to; None when it is refused and nothing is sent."""
    asked: list[bytes] = []

    def answered(request: httpx2.Request) -> httpx2.Response:
        assert (request.method, request.url.host) == ("PATCH", "api.test")
        asked.append(request.url.raw_path)
        return httpx2.Response(204)

    async with closing(mock_client(answered, "https://api.test")) as client:
        try:
            await NestRemotehood(client, "https://api.test/base", metrics=METRICS).report(task_id)
        except Rejected:
            assert asked == []
            return None
    (path,) = asked
    return path


@pytest.mark.parametrize(
    ("task_id", "path"),
    [
        ("665f0c0000000000000000aa", b"/base/api/ai-tasks/665f0c0000000000000000aa"),
        ("a.b_c~d-e", b"/base/api/ai-tasks/a.b_c~d-e"),
        ("../../admin", b"/base/api/ai-tasks/..%2F..%2Fadmin"),
        ("a?x=1", b"/base/api/ai-tasks/a%3Fx%3D1"),
        ("%2e%2e", b"/base/api/ai-tasks/%252e%252e"),
        ("a#b", b"/base/api/ai-tasks/a%23b"),
        ("a b\r\nX: y", b"/base/api/ai-tasks/a%20b%0D%0AX%3A%20y"),
        ("\ud800", b"/base/api/ai-tasks/%ED%A0%80"),
        ("..", None),
        (".", None),
        ("", None),
        ("a" * 70_000, None),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_an_id_reaches_its_own_path_or_none(task_id: str, path: bytes | None) -> None:
    """Whatever an id holds is part of one segment, or nothing is sent; the base's own path stays in front."""
    assert await path_of(task_id) == path


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(codec=None), max_size=20) | st.text("./%?#2eE\\@:;a", max_size=9), min_size=50))
def test_no_id_reaches_another_path(ids: list[str]) -> None:
    """A thousand random ids: each is quoted into one segment behind the prefix, or refused."""

    async def paths() -> list[bytes | None]:
        return [await path_of(task_id) for task_id in ids]

    for task_id, path in zip(ids, asyncio.run(paths()), strict=True):
        if path is not None:
            assert path.startswith(b"/base/api/ai-tasks/")
            segment = path.removeprefix(b"/base/api/ai-tasks/")
            assert segment not in (b"", b".", b"..")
            assert not set(segment) & set(b"/?#\\")
            assert unquote_to_bytes(segment).decode("utf-8", "surrogatepass") == task_id
