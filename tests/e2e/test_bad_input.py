"""Nonsense from every side: what the remotes answer, list and refuse never stops the daemon or loses a task.

A daemon costs a second and a half to start, so faults follow each other in one daemon where they
do not disturb each other, and daemons run beside each other where they do.
"""

import asyncio
import base64
import json
import os
import re
import resource
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai_task_processor.cli import main as cli
from ai_task_processor.core.errors import OutboxLocked
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.stores.sqlite import directory as data_directory
from ai_task_processor.stores.sqlite.outbox import SqliteOutbox
from ai_task_processor.testing.source import HandClock
from tests.contract.outboxes import execute, overwrite
from tests.e2e.conftest import MOCK, MODEL, Another, Start, eventually, side_by_side

#: what no log line, no answer and no message may ever show
SECRETS = ("client-secret-7Qx", "sk-model-key-9Zz", "proxy-pass-3Kd")


async def test_every_mistake_in_the_settings_has_its_line_and_no_value(sandbox: Sandbox, daemon: Start) -> None:
    """Missing and contradictory settings: exit 78, a line on stderr for each, nothing on stdout, never a value."""
    client_secret, api_key, proxy_password = SECRETS
    broken = {
        "API_BASE_URL": "ftp://api.example.com",
        "OAUTH2_TOKEN_URL": "",
        "OAUTH2_CLIENT_ID": "",
        "OAUTH2_CLIENT_SECRET": client_secret,
        "OAUTH2_CLIENT_SECRET_FILE": "/nowhere",
        "OPENAI_API_KEY": api_key,
        "OPENAI_BASE_URL": f"http://user:{proxy_password}@8.8.8.8",
        "HTTPS_PROXY": f"socks://user:{proxy_password}@proxy",
        "CONCURRENCY_LIMIT": f"{api_key}0",
        "OUTBOX_MAX_BYTES": client_secret,
        "TASK_ID_PATTERN": f"({api_key}",
        "MODEL_ALIASES": f'{{"a": "{client_secret}"',
        "METRICS_PORT": "99999",
        "LOG_LEVEL": api_key,
        "SINKS": "attic",
        "SHUTDOWN_GRACE_SECONDS": "nan",
        "OAUTH2_AUDIENCE": f'"{client_secret}"',
        "OAUTH2_SCOPE": f"read write # {api_key}",
    }
    finished = await (await daemon(spawn=False, **broken)).command("run")
    assert (finished.code, finished.out) == (78, "")
    lines = finished.err.splitlines()
    named = [re.match(r"ai-task-processor: ([A-Z0-9_]+) ", line) for line in lines]
    assert all(named), lines
    names = {match[1] for match in named if match}
    assert names >= broken.keys() - {"OAUTH2_TOKEN_URL", "OPENAI_API_KEY", "OAUTH2_CLIENT_SECRET_FILE"}
    assert "ORY_PROJECT_SLUG" in names
    assert not [secret for secret in SECRETS if secret in finished.err]


# --- the token endpoint


TOKEN_FAULTS: Mapping[str, tuple[dict[str, object], str]] = {
    "html": ({"status": 200, "body": "html"}, "did not answer JSON"),
    "empty object": ({"content": "{}"}, "no usable access_token"),
    "no number": ({"content": '{"access_token":"a","token_type":"bearer","expires_in":"soon"}'}, "expires_in"),
    "negative": ({"content": '{"access_token":"a","token_type":"bearer","expires_in":-5}'}, "expires_in"),
    "too many": ({"status": 429, "headers": {"Retry-After": "1"}}, "answered 429"),
    "reset": ({"reset": True}, "connection reset"),
    "out of order": ({"status": 503}, "the token endpoint answered 503"),
}


@pytest.mark.parametrize("names", [list(TOKEN_FAULTS)[start::4] for start in range(4)], ids=" and ".join)
async def test_without_a_token_it_boots_says_why_asks_gently_and_recovers(
    sandbox: Sandbox, daemon: Start, names: list[str]
) -> None:
    """Up, healthy, not ready for that reason, gentle, and then it works."""
    task_id = sandbox.tasks.add(text="waiting for a token")
    bad = [sandbox.faults.add("token", **TOKEN_FAULTS[name][0]) for name in names]
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.2, **MOCK)
    began = time.monotonic()
    for played, name in zip(bad, names, strict=True):
        reason = TOKEN_FAULTS[name][1]
        await eventually(lambda reason=reason: worker.unready_for(reason))
        assert (await worker.reasons())[0].startswith("token_unavailable: "), name
        status = await worker.status()
        assert (status["state"], status["token"]["held"]) == ("degraded", False), name
        assert status["why_idle"].startswith("token_unavailable")
        assert reason in status["why_idle"]
        assert (await worker.get("/health")).status_code == 200
        assert sandbox.stats.polls == 0
        played.times = played.hits
    await sandbox.tasks.settled([task_id], timeout=20)
    # Half a second at least lies between two requests, however often the list is due.
    assert len(names) + 1 <= sandbox.stats.token_requests <= 2 + (time.monotonic() - began) / 0.5
    assert sandbox.stats.token_requests == 1 + sum(played.hits for played in bad)
    assert (await worker.get("/ready")).status_code == 200
    assert len(worker.events("token.failed")) == len(names)


async def test_a_closed_port_is_waited_for(sandbox: Sandbox, daemon: Start) -> None:
    """Nobody listens: the same, until somebody does."""
    port = int(sandbox.url.rpartition(":")[2])
    await sandbox.aclose()
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.5, **MOCK)
    await eventually(lambda: worker.unready_for("token_unavailable: connection refused"))
    assert (await worker.get("/health")).status_code == 200
    comes_late = Sandbox()
    await comes_late.start("127.0.0.1", port)
    try:
        await comes_late.tasks.settled([comes_late.tasks.add(text="late")], timeout=25)
    finally:
        await worker.stop()
        await comes_late.aclose()


@pytest.mark.parametrize(
    ("timeout_s", "fault"), [(1, {"hang": True, "times": 2}), (2, {"drip_s": 1.0})], ids=["hangs", "byte by byte"]
)
async def test_a_token_that_comes_too_slowly_is_no_token(
    sandbox: Sandbox, daemon: Start, timeout_s: int, fault: dict[str, Any]
) -> None:
    """Given up at the deadline, told as the token's trouble, and well again afterwards."""
    slow = sandbox.faults.add("token", **fault)
    task_id = sandbox.tasks.add(text="slow token")
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.5, REQUEST_TIMEOUT=timeout_s, **MOCK)
    await eventually(lambda: worker.unready_for(f"token_unavailable: no answer within {timeout_s / 2:g} s"))
    assert (await worker.get("/health")).status_code == 200
    slow.times = slow.times or slow.hits
    await sandbox.tasks.settled([task_id], timeout=20)
    assert sandbox.stats.token_requests == slow.hits + 1


# --- the pending list


SHORT_POLL_FAULTS: Mapping[str, tuple[dict[str, object], str]] = {
    "html with 200": ({"status": 200, "body": "html"}, "not a JSON array"),
    "object": ({"status": 200, "body": "object"}, "not a JSON array"),
    "truncated": ({"truncate": True}, ""),
    "500": ({"status": 500}, "answered 500"),
    "502 page": ({"status": 502, "body": "html"}, "answered 502"),
    "429": ({"status": 429, "headers": {"Retry-After": "1"}}, "answered 429"),
    "reset": ({"reset": True}, "connection reset"),
    "hang": ({"hang": True}, "no answer within 1 s"),
    "drip": ({"drip_s": 0.1}, "no answer within 1 s"),
    "gzip": ({"content": "[]", "headers": {"Content-Encoding": "gzip"}}, "compressed"),
}


async def test_a_list_that_makes_no_sense_is_told_once_and_polled_again(
    daemon: Start, another_sandbox: Another
) -> None:
    """Ten kinds of a bad list: one ``poll.failed`` each, no content in it, nothing lost or failed, recovery."""
    secret = "text-of-a-user"

    async def one_after_the_other(faults: list[tuple[dict[str, object], str]]) -> None:
        sandbox = await another_sandbox()
        worker = await daemon(to=sandbox, POLLING_INTERVAL_SECONDS=0.3, REQUEST_TIMEOUT=1, **MOCK)
        for number, (fault, reason) in enumerate(faults, 1):
            bad = sandbox.faults.add("pending", **fault, times=2)
            await eventually(lambda bad=bad: bad.hits >= 1)
            await sandbox.tasks.settled([sandbox.tasks.add(text=secret)], timeout=15)
            assert bad.hits == 2
            await eventually(lambda number=number: len(worker.events("poll.recovered")) == number)
            told = worker.events("poll.failed")
            assert len(told) == number
            assert reason in told[-1]["reason"]
            sandbox.faults.clear()
        log = worker.log.read_text()
        assert not [word for word in (secret, "log in", "hello", "doctype") if word in log]
        assert not worker.events("task.failed")
        assert sandbox.stats.patches == len(faults)

    faults = list(SHORT_POLL_FAULTS.values())
    await side_by_side(*(one_after_the_other(faults[start::3]) for start in range(3)))


async def test_a_cut_list_yields_its_whole_records_only(sandbox: Sandbox, daemon: Start) -> None:
    """A list that breaks off in its middle: complete records are processed, the cut one when it comes whole."""
    ids = [sandbox.tasks.add(text=f"{number} " * 50) for number in range(5)]
    sandbox.faults.add("pending", truncate=True, times=1)
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.5, CONCURRENCY_LIMIT=20, **MOCK)
    await sandbox.tasks.settled(ids, timeout=15)
    assert worker.events("poll.cut")[0]["claimed"] == 2
    assert {sandbox.tasks[task_id].state for task_id in ids} == {"succeeded"}
    assert sandbox.stats.patches == 5


def _record(task_id: object, content: bytes = b'{"text":"bad remote"}', more: bytes = b"") -> bytes:
    head = json.dumps({"_id": task_id, "type": "text_embedding", "state": "pending"}).encode()
    return head[:-1] + b',"content":' + content + more + b"}"


OID = "66aa0000000000000000{:04x}".format
HOSTILE_IDS = ["../../admin", "a?x=1", "%2e%2e", "..", "a/b", "a#b", "", "a\r\nX: y", "é", "a" * 129, None, 7, ["a"]]
HOSTILE_RECORDS = [
    *(_record(task_id) for task_id in HOSTILE_IDS),
    _record(OID(1), more=b',"score":NaN'),
    _record(OID(2), more=b',"score":1e999'),
    _record(OID(3), more=b',"score":' + b"7" * 5000),
    _record(OID(4), b"[" * 100_000 + b"]" * 100_000),
    _record(OID(5), b'{"text":"\xff\xfe"}'),
    _record(OID(6), rb'{"text":"\ud800"}'),
    _record(OID(7), b'{"text":"' + b"x" * 2_000_000 + b'"}'),
    _record(OID(8), more=b',"state":"succeeded"'),
    b'{"_id":"' + OID(9).encode() + b'","type":7,"content":"a"}',
    b"null",
    b"17",
    b'"a text"',
    b'[["nested"],[{"_id":"' + OID(10).encode() + b'"}]]',
    b"{}",
]


async def test_bad_records_spoil_themselves_and_not_their_remotes(sandbox: Any, daemon: Start) -> None:
    """Among 27 hostile records every good one is processed once, and no request leaves the known paths."""
    good = []
    for number, record in enumerate(HOSTILE_RECORDS):
        sandbox.tasks.add_raw(record)
        good.append(sandbox.tasks.add(text=f"good {number}"))
    twice = sandbox.tasks.add(text="listed twice")
    sandbox.tasks.add_raw(sandbox.tasks[twice].record)
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.5, CONCURRENCY_LIMIT=64)
    await sandbox.tasks.settled([*good, twice], timeout=30)
    await worker.metric_when('tasks_skipped_total{reason="invalid"}', lambda count: count >= 20)
    for task_id in (*good, twice):
        task = sandbox.tasks[task_id]
        assert (task.state, task.patches, task.callbacks) == ("succeeded", 1, 1)
    known = {"POST /oauth2/token", "POST /v1/embeddings", *(f"PATCH /api/ai-tasks/{task_id}" for task_id in good)}
    known |= {f"PATCH /api/ai-tasks/{twice}", *(f"PATCH /api/ai-tasks/{OID(number)}" for number in range(16))}
    strange = {request for request in sandbox.requests if not request.startswith("GET /api/ai-tasks/pending?limit=")}
    assert strange <= known
    assert not [word for word in ("bad remote", "xxxx", "admin") if word in worker.log.read_text()]
    warned = len(worker.events("record.skipped"))
    polls = sandbox.stats.polls
    await eventually(lambda: sandbox.stats.polls >= polls + 2)
    assert len(worker.events("record.skipped")) == warned
    assert await worker.stop() == 0


# --- the model


def _vector(seed: int, size: int = 4) -> str:
    return base64.b64encode(np.arange(seed, seed + size, dtype="<f4").tobytes()).decode()


def _embeddings(*items: tuple[int, str]) -> str:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in items]
    return json.dumps(
        {"object": "list", "data": data, "model": MODEL, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    )


NAN_VECTOR = base64.b64encode(np.full(4, np.nan, dtype="<f4").tobytes()).decode()
ZERO_VECTOR = base64.b64encode(np.zeros(4, dtype="<f4").tobytes()).decode()

MODEL_FAULTS: Mapping[str, dict[str, object]] = {
    "html with 200": {"status": 200, "body": "html", "times": 2},
    "500 twice": {"status": 500, "times": 2},
    "429": {"status": 429, "headers": {"Retry-After": "1"}, "times": 1},
    "reset": {"reset": True, "times": 1},
    "truncated": {"truncate": True, "times": 1},
    "too few": {"content": _embeddings(), "times": 1},
    "wrong index": {"content": _embeddings((5, _vector(1))), "times": 1},
    "nan": {"content": _embeddings((0, NAN_VECTOR)), "times": 1},
    "no numbers": {"content": '{"data":[{"index":0,"embedding":["a","b"]}]}', "times": 1},
}


async def test_bad_answers_of_the_model_cost_time_and_nothing_else(daemon: Start, another_sandbox: Another) -> None:
    """Nine kinds of a bad answer: repeated within the slot, each task succeeds with its true vector at once."""

    async def one_after_the_other(names: list[str]) -> None:
        sandbox = await another_sandbox()
        patient = {"RETRY_BACKOFF_FACTOR": 0.2, "CIRCUIT_BREAKER_THRESHOLD": 50, "MAX_RETRIES": 5}
        worker = await daemon(to=sandbox, POLLING_INTERVAL_SECONDS=0.3, **patient)
        for name in names:
            bad = sandbox.faults.add("model", **MODEL_FAULTS[name])
            task_id = sandbox.tasks.add(text=f"through {name}")
            await sandbox.tasks.settled([task_id], timeout=15)
            assert sandbox.tasks[task_id].result == sandbox.vector(f"through {name}", MODEL), name
            assert bad.hits == bad.times, name
        assert not worker.events("task.failed")
        # A waiter that wakes a moment before a hold is over comes back at once; nothing else leaves its slot.
        assert not [event for event in worker.events("task.released") if "is held" not in event["reason"]]
        assert sandbox.stats.patches == len(names)

    names = list(MODEL_FAULTS)
    await side_by_side(*(one_after_the_other(names[start::2]) for start in range(2)))


async def test_one_unusable_vector_spares_its_remotes(sandbox: Sandbox, daemon: Start) -> None:
    """A zero vector for one text of three: the two others keep theirs, that one is asked for again."""
    first = sandbox.tasks.add(text="text before")
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.3, EMBEDDING_DIMENSIONS=4)
    await sandbox.tasks.settled([first], timeout=20)
    answered = _embeddings((2, _vector(7)), (0, _vector(1)), (1, ZERO_VECTOR))
    sandbox.faults.add("model", content=answered, times=1, status=200)
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(3)]
    await sandbox.tasks.settled(ids, timeout=20)
    results = [sandbox.tasks[task_id].result for task_id in ids]
    assert results[0] == np.arange(1, 5, dtype="<f4").tobytes()
    assert results[1] == sandbox.vector("text 1", MODEL, 4)
    assert results[2] == np.arange(7, 11, dtype="<f4").tobytes()
    assert sandbox.stats.model_requests == 3
    assert not worker.events("task.failed")


async def test_an_unknown_model_stops_its_own_tasks_only(sandbox: Sandbox, daemon: Start) -> None:
    """``model_not_found`` for one model: its tasks wait, named in ``/status``; those of another model go on."""
    lost = [sandbox.tasks.add(text=f"lost {number}", model="no-such-model") for number in range(3)]
    good = [sandbox.tasks.add(text=f"good {number}") for number in range(10)]
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.3)
    await sandbox.tasks.settled(good, timeout=15)
    document = await worker.status()
    assert document["paused_models"] == {"no-such-model": "the provider does not know this model"}
    assert {sandbox.tasks[task_id].state for task_id in lost} == {"pending"}
    later = [sandbox.tasks.add(text="later", model="text-embedding-3-large")]
    await sandbox.tasks.settled(later, timeout=10)
    assert not worker.events("task.failed")


# --- delivery


NOT_FOUND = '{"statusCode":404,"message":"AI task not found","error":"Not Found"}'
OTHER_TASK = '{"_id":"somebody-else","state":"succeeded"}'
#: reports that may have been applied: the endpoint that errs, and how
REPEATED: dict[str, tuple[Any, dict[str, Any]]] = {
    "callback threw": ("callback", {"status": 500, "times": 2}),
    "answer lost": ("patch", {"reset": True, "after": True, "times": 1}),
    "proxy page": ("patch", {"status": 200, "body": "html", "times": 1}),
    "other task": ("patch", {"content": OTHER_TASK, "times": 1}),
}
#: reports that are refused for good, by the reason that is told
REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "gone (HTTP 404)": ("patch", {"status": 404, "content": NOT_FOUND}),
    "conflict (HTTP 409)": ("patch", {"status": 409}),
    "refused (HTTP 413)": ("patch", {"status": 413}),
    "refused (HTTP 400)": ("callback", {"status": 400}),
}


async def test_what_may_have_been_applied_is_repeated_and_what_is_refused_is_kept(
    sandbox: Sandbox, daemon: Start
) -> None:
    """Eight answers to a result at once: lost ones are repeated and counted, refusals become dead letters."""
    repeated, refused = ({name: sandbox.tasks.add(text=name) for name in faults} for faults in (REPEATED, REFUSED))
    for name, (endpoint, fault) in (REPEATED | REFUSED).items():
        sandbox.faults.add(endpoint, **fault, task_id=(repeated | refused)[name])
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.3, CONCURRENCY_LIMIT=8, CIRCUIT_BREAKER_THRESHOLD=50)
    await sandbox.tasks.settled(repeated.values(), timeout=30)
    await eventually(lambda: len(worker.events("delivery.refused")) == 4)
    for name, task_id in repeated.items():
        task = sandbox.tasks[task_id]
        assert task.result == sandbox.vector(name, MODEL)
        assert task.state == "succeeded"
    assert [sandbox.tasks[task_id].callbacks for task_id in repeated.values()] == [1, 2, 1, 1]
    told = {event["reason"].partition(": ")[0]: event["task_id"] for event in worker.events("delivery.refused")}
    assert told == refused
    # two for the callback that threw, one for each of the others
    assert await worker.metric("ambiguous_deliveries_total") == 5
    await asyncio.sleep(1)  # still listed, polled several times, and not processed again
    assert sandbox.stats.model_inputs == 8
    document = await worker.status()
    assert document["outbox"]["dead_letters"] == 4
    assert document["outbox"]["waiting"] == 0
    assert await worker.metric("dead_letters") == 4
    assert not worker.events("task.failed")


async def test_a_strict_api_gets_failures_without_their_reason(sandbox: Sandbox, daemon: Start) -> None:
    """``forbidNonWhitelisted``: an explained failure is refused once, the bare one accepted, and so from then on."""
    sandbox.api.forbid_unknown_keys = True
    first = sandbox.tasks.add(content={"text": ""})
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.3, **MOCK)
    await sandbox.tasks.settled([first], timeout=15)
    assert sandbox.stats.patches == 2
    later = [sandbox.tasks.add(content={"text": ""}) for _ in range(3)]
    await sandbox.tasks.settled(later, timeout=15)
    assert sandbox.stats.patches == 5
    assert {(sandbox.tasks[task_id].state, sandbox.tasks[task_id].error) for task_id in (first, *later)} == {
        ("failed", None)
    }
    assert not worker.events("delivery.refused")


# --- remotes that need an operator, or an hour


#: a fault of the list, what is told, and how many polls it may cost in the first ten seconds
PAUSING_FAULTS: Mapping[str, tuple[dict[str, object], str, int]] = {
    "404 page": ({"status": 404, "body": "html"}, "answered 404", 1),
    "403": ({"status": 403}, "answered 403", 1),
    "400, and again without the limit": ({"status": 400}, "answered 400", 2),
    "500 until the circuit opens": ({"status": 500}, "answered 500", 5),
}


async def test_what_repeating_does_not_mend_is_asked_rarely_and_loses_nothing(
    daemon: Start, another_sandbox: Another
) -> None:
    """Refused polls, an ingress instead of the API, an empty account, a bad key: a pause, one probe, then all goes on.

    Each of them under its own daemon, because each pause takes ten seconds.
    """

    async def polls(fault: dict[str, object], reason: str, count: int) -> None:
        sandbox = await another_sandbox()
        bad = sandbox.faults.add("pending", **fault)
        task_id = sandbox.tasks.add(text="patience")
        worker = await daemon(to=sandbox, POLLING_INTERVAL_SECONDS=0.3, **MOCK)
        await eventually(lambda: worker.events("remote.paused") or worker.events("breaker.opened"))
        await eventually(lambda: worker.unready_for(f"upstream_unavailable: the task API {reason}"))
        assert (await worker.get("/health")).status_code == 200
        await asyncio.sleep(4)
        assert sandbox.stats.polls == count
        bad.times = bad.hits
        await sandbox.tasks.settled([task_id], timeout=20)
        assert worker.events("poll.recovered")
        assert len(worker.events("poll.failed")) == 1

    async def deliveries(fault: dict[str, object]) -> None:
        sandbox = await another_sandbox()
        bad = sandbox.faults.add("patch", **fault)
        ids = [sandbox.tasks.add(text=f"text {number}") for number in range(10)]
        worker = await daemon(to=sandbox, POLLING_INTERVAL_SECONDS=0.3, CONCURRENCY_LIMIT=10)
        await eventually(lambda: worker.events("remote.paused"))
        await asyncio.sleep(4)
        assert sandbox.stats.patches <= 10
        bad.times = bad.hits
        await sandbox.tasks.settled(ids, timeout=40)
        assert not worker.events("delivery.refused")
        assert (await worker.status())["outbox"]["dead_letters"] == 0
        assert sandbox.stats.model_inputs == 10

    async def models(fault: dict[str, object], reason: str) -> None:
        sandbox = await another_sandbox()
        sandbox.faults.add("model", **fault)
        ids = [sandbox.tasks.add(text=f"text {number}") for number in range(12)]
        worker = await daemon(to=sandbox, POLLING_INTERVAL_SECONDS=0.3)
        await eventually(lambda: worker.events("remote.paused"))
        await worker.status_when(
            lambda it: reason in str(it["why_idle"]) and reason in it["circuits"]["model"]["reason"]
        )
        await asyncio.sleep(4)
        assert sandbox.stats.model_requests == 1
        assert {sandbox.tasks[task_id].state for task_id in ids} == {"pending"}
        assert (await worker.get("/ready")).status_code == 200
        assert not worker.events("task.failed")

    await side_by_side(
        *(polls(fault, reason, count) for fault, reason, count in PAUSING_FAULTS.values()),
        deliveries({"status": 404, "body": "html"}),
        deliveries({"status": 404}),  # Nest's own: "Cannot PATCH /api/ai-tasks/…"
        models({"status": 429, "code": "insufficient_quota"}, "quota"),
        models({"status": 401}, "answered 401"),
    )


# --- the data directory


@pytest.mark.parametrize(
    "place", ["file/data", "/sys/kernel/ai-task-processor"], ids=["below a file", "on a file system without files"]
)
async def test_a_data_directory_that_cannot_be_used_is_one_line_and_73(
    daemon: Start, tmp_path: Path, place: str
) -> None:
    """Exit 73, whoever asks, and one line that names DATA_DIR."""
    (tmp_path / "file").write_text("")
    worker = await daemon(wait=False, DATA_DIR=tmp_path / place)
    assert await worker.exit_code() == 73
    (line,) = [line for line in worker.log.read_text().splitlines() if not line.startswith("{")]
    assert line.startswith(f"ai-task-processor: DATA_DIR {tmp_path / place} cannot be used (")
    assert "Traceback" not in worker.log.read_text()


def _no_first_page(data: Path) -> None:
    execute(data / "outbox.db", "PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(data / "outbox.db", 0, b"no database " * 341)


def _no_head_of_the_log(data: Path) -> None:
    overwrite(data / "outbox.db-wal", 0, bytes(32))


def _no_database(data: Path) -> None:
    (data / "outbox.db").unlink()


@pytest.mark.parametrize("damage", [_no_first_page, _no_head_of_the_log, _no_database])
async def test_a_damaged_outbox_is_set_aside_and_what_can_be_read_is_delivered(
    sandbox: Sandbox, daemon: Start, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """Results wait while the API is away; their files are damaged; the next start delivers them all the same."""
    texts = [f"text {number}" for number in range(20)]
    task_ids = [sandbox.tasks.add(content=text) for text in texts]
    sandbox.faults.add("patch", status=503)
    worker = await daemon(DATA_DIR=tmp_path / "data", POLLING_INTERVAL_SECONDS=1)
    # Not what the outbox has accepted: this is logged once it is on disk.
    await eventually(lambda: len(worker.events("task.completed")) == len(texts))
    await worker.kill()
    damage(tmp_path / "data")
    for arguments in (("outbox", "list"), ("outbox", "drop", task_ids[0])):
        refused = await worker.command(*arguments)
        assert (refused.code, refused.out) == (73, "")
        assert "the file is damaged: the daemon sets it aside at its next start" in refused.err
    examined = await worker.command("doctor")
    assert "the file is damaged" in examined.out
    sandbox.faults.clear()
    worker = await daemon(DATA_DIR=tmp_path / "data", POLLING_INTERVAL_SECONDS=1)
    await sandbox.tasks.settled(task_ids, timeout=20)
    assert [sandbox.model.times_charged(text) for text in texts] == [1] * 20
    (told,) = worker.events("outbox.salvaged")
    assert (told["kept"], told["lost"], told["unreadable_bytes"]) == (20, 0, 0)
    aside = Path(told["aside"])
    assert [path for path in aside.parent.iterdir() if path.name.startswith(aside.name)]


async def test_a_second_daemon_takes_over_when_the_first_one_leaves(sandbox: Sandbox, daemon: Start) -> None:
    """Two daemons on one data directory: the second waits, unready, and works as soon as the first has gone."""
    first = await daemon(**MOCK)
    second = await daemon(wait=False, **MOCK)
    await asyncio.sleep(2)
    assert not second.events("daemon.started")
    assert await first.stop() == 0
    await eventually(lambda: second.events("daemon.started"))
    await sandbox.tasks.settled([sandbox.tasks.add(text="for the second")], timeout=10)
    assert await second.stop() == 0


async def test_a_share_without_file_locks_is_one_line_and_73(daemon: Start, tmp_path: Path) -> None:
    """ENOLCK, as a network share answers: daemon, command and doctor name the lock file and ask for a local disk."""
    (tmp_path / "sitecustomize.py").write_text(
        "import errno, fcntl, os\n"
        "def flock(*_): raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))\n"
        "fcntl.flock = flock\n"
    )
    worker = await daemon(spawn=False, PYTHONPATH=tmp_path, **MOCK)
    reason = f"{tmp_path}/data/lock cannot be locked (No locks available)"
    remedy = "file locks are not supported there; set DATA_DIR to a directory on a local disk"
    for arguments in (("run",), ("drain",)):
        finished = await worker.command(*arguments)
        assert (finished.code, finished.out) == (73, "")
        assert finished.err.splitlines()[-1] == f"ai-task-processor: {reason}: {remedy}"
    doctor = await worker.command("doctor")
    assert doctor.code == 73
    assert reason in doctor.out
    assert remedy in doctor.out


async def test_a_locked_outbox_is_waited_for_for_a_minute(tmp_path: Path) -> None:
    """The second daemon gives up after 60 s, and says who holds the directory."""
    clock = HandClock()
    began_at = clock.time
    held = await data_directory.lock(tmp_path, clock, 0.0)
    try:
        with pytest.raises(OutboxLocked, match="held by another daemon"):
            await SqliteOutbox(tmp_path, "aletheia", max_bytes=2**20, clock=clock).open()
    finally:
        with suppress(OSError):
            os.close(held)
    assert 60 <= clock.time - began_at <= 61


def test_a_locked_outbox_is_exit_75(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """75 (try again later) and one line, so that a supervisor restarts it."""

    def locked(_: object) -> int:
        raise OutboxLocked("DATA_DIR is held by another daemon")

    monkeypatch.setattr(cli, "_live", locked)
    assert cli.main(["run"]) == 75
    assert capsys.readouterr().err == "ai-task-processor: DATA_DIR is held by another daemon\n"


FULL_DISK = """
import os
from types import SimpleNamespace

_statvfs = os.statvfs


def statvfs(path):
    with open(os.environ["FREE_BYTES_FILE"]) as file:
        return SimpleNamespace(f_bavail=int(file.read()), f_frsize=1)


os.statvfs = statvfs
"""


async def test_a_disk_that_is_nearly_full_stops_the_intake_before_a_model_is_called(
    sandbox: Sandbox, daemon: Start, tmp_path: Path
) -> None:
    """Nothing is claimed or paid for, /ready and why_idle name the reason; with room again work goes on by itself."""
    (tmp_path / "sitecustomize.py").write_text(FULL_DISK)
    free = tmp_path / "free"
    free.write_text("1000000")
    task_id = sandbox.tasks.add(text="waits for room")
    worker = await daemon(PYTHONPATH=tmp_path, FREE_BYTES_FILE=free, POLLING_INTERVAL_SECONDS=1)
    await asyncio.sleep(2.5)
    assert sandbox.stats.model_requests == 0
    answer = await worker.get("/ready")
    assert answer.status_code == 503
    assert "disk_full" in answer.text
    assert "disk_full" in (await worker.status())["why_idle"]
    assert (await worker.get("/health")).status_code == 200
    free.write_text(str(10**9))
    await sandbox.tasks.settled([task_id], timeout=10)


@pytest.mark.parametrize(
    ("settings", "more_log"),
    [({"POLLING_INTERVAL_SECONDS": 1}, None), ({"POLLING_INTERVAL_SECONDS": 0.3, **MOCK}, 16_384)],
    ids=["nothing may grow", "the log may grow"],
)
async def test_a_disk_that_refuses_in_the_middle_loses_and_repeats_nothing(
    sandbox: Sandbox, daemon: Start, tmp_path: Path, settings: dict[str, Any], more_log: int | None
) -> None:
    """Files may not grow (RLIMIT_FSIZE): what was paid for is reported from memory, nothing more is claimed."""
    worker = await daemon(CONCURRENCY_LIMIT=4, **settings)
    await sandbox.tasks.settled([sandbox.tasks.add(text="first")], timeout=15)
    _, hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)
    sizes = ((tmp_path / "data" / "outbox.db-wal").stat().st_size, worker.log.stat().st_size + (more_log or 0))
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (max(sizes) if more_log else 4096, hard))
    texts = [f"{number} " * 2000 for number in range(40)]
    ids = [sandbox.tasks.add(text=text) for text in texts]
    await eventually(lambda: worker.unready_for("outbox_unwritable"), timeout=20)
    await asyncio.sleep(3)
    assert (await worker.get("/health")).status_code == 200
    assert worker.events("outbox.failed")
    assert sandbox.tasks.outcomes()["pending"] > 0
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (hard, hard))
    await sandbox.tasks.settled(ids, timeout=40)
    assert {task.callbacks for task in sandbox.tasks} == {1}
    assert {sandbox.model.times_charged(text) for text in texts} == {0 if more_log else 1}
    assert await worker.metric("results_lost_total") == 0
    assert worker.events("outbox.restored")
    assert await worker.stop() == 0
