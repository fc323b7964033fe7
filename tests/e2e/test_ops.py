"""The running daemon as probes, Prometheus, an init system and an operator meet it."""

import asyncio
import json
import re
import signal
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2

from ai_task_processor.ops.endpoints import MetricsServer
from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.conftest import MODEL, WAKE_UPS, DaemonProcess, Start, connected, eventually

PATHS = ("/health", "/ready", "/metrics", "/status", "/")
TOKEN = "a-token-of-the-tests"
#: what a busy machine may add to a promise in seconds
ALLOWANCE_S = 2.0


async def time_to_stop(worker: DaemonProcess) -> float:
    """Seconds from SIGTERM to the end with exit code 0."""
    began = time.monotonic()
    assert await worker.stop() == 0
    return time.monotonic() - began


# --- what is served


async def test_five_paths_answer_and_nothing_else(sandbox: Sandbox, daemon: Start) -> None:
    """GET and HEAD of five paths; 404 elsewhere, 405 for every other method; a busy daemon says so."""
    worker = await daemon(CONCURRENCY_LIMIT=3)
    await eventually(worker.ready)
    assert (await worker.get("/health")).json() == {"status": "ok"}
    assert (await worker.get("/ready")).json() == {"ready": True, "reasons": []}
    assert (await worker.get("/metrics")).headers["content-type"].startswith("text/plain; version=0.0.4")
    status = await worker.status()
    assert (status["state"], status["mode"]) == ("running", "openai")
    assert re.fullmatch(r"no task is pending(; next poll (in \d+ s|within a second))?", status["why_idle"])
    assert status["slots"] == {"total": 3, "running": 0}
    assert status["token"]["held"] is True
    assert status["poll"]["under_way"] or 0 <= status["poll"]["next_in_seconds"] <= 30
    url = f"http://127.0.0.1:{worker.port}"
    asked = await worker.command("status", "--url", url)
    assert (asked.code, asked.err) == (0, "")
    assert asked.out.startswith("running, ready\n  no task is pending")
    for path in PATHS:
        head = await worker.ask("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            refused = await worker.ask(method, path)
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    for path in ("/metrics/", "/Health", "/wake", "/../etc/passwd", "/%2e%2e/status", "//status", "/status/x"):
        assert (await worker.ask("GET", path)).status_code == 404
    assert (await worker.ask("GET", "/health?verbose=1")).status_code == 200


async def test_nothing_of_the_configuration_is_served(sandbox: Sandbox, daemon: Start) -> None:
    """No secret, token, URL, path or user text on any path, in good times and in bad."""
    text = "the text of a user"
    first = sandbox.tasks.add(text=text)
    worker = await daemon(CIRCUIT_BREAKER_THRESHOLD=1, POLLING_INTERVAL_SECONDS=0.2)
    await eventually(worker.ready)
    await sandbox.tasks.settled([first], timeout=10)  # a model that refuses would stop the polls
    served = [await worker.ask("GET", path) for path in (*PATHS, "/nothing")]
    sandbox.faults.add("pending", status=500, body="html")
    sandbox.faults.add("patch", status=401)
    sandbox.faults.add("model", status=401)
    sandbox.tasks.add(text=text)
    await eventually(worker.reasons)
    served += [await worker.ask("GET", path) for path in PATHS]
    said = "".join(f"{answer.headers}{answer.text}" for answer in served)
    environment = sandbox.environment()
    hidden = [value for name, value in environment.items() if name not in ("OPENAI_BASE_URL", "OAUTH2_TOKEN_URL")]
    hidden += [sandbox.url, sandbox.url.partition("//")[2], str(worker.directory.parent), "Bearer", "outbox.db", text]
    assert len(said) > 20_000
    assert [secret for secret in hidden if secret in said] == []


async def test_who_does_not_take_an_answer_keeps_nobody_out() -> None:
    """A hundred clients that ask and never read: the next probe is answered at once."""
    ops = MetricsServer(
        unhealthy=lambda: None, unready=list, status=dict, exposition=lambda _: (b"x" * 2**23, "text/plain")
    )
    port = await ops.start("127.0.0.1", 0)
    try:
        async with AsyncExitStack() as stack:
            for _ in range(100):
                _, writer = await stack.enter_async_context(connected(port))
                writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                await asyncio.sleep(0.01)
            async with asyncio.timeout(1.0), httpx2.AsyncClient(trust_env=False) as client:
                assert (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 200
    finally:
        await ops.aclose()


# --- the wake-up


async def test_a_wake_up_replaces_the_wait_for_the_next_poll(sandbox: Sandbox, daemon: Start) -> None:
    """A new task is acknowledged moments after ``POST /wake``, long before anybody would have looked for it."""
    worker = await daemon(POLLING_INTERVAL_SECONDS=3_600, WAKE_TOKEN=TOKEN)
    # An idle daemon polls after half a second, one, two, four: by itself the next poll comes six seconds later.
    await eventually(lambda: sandbox.stats.polls == 5, timeout=20)
    task_id = sandbox.tasks.add(text="text")
    assert (await worker.wake(TOKEN)).status_code == 202
    await sandbox.tasks.settled([task_id], timeout=5)
    assert await worker.metric(WAKE_UPS) == 1


async def test_a_wake_up_needs_its_token(sandbox: Sandbox, daemon: Start) -> None:
    """A wrong token is refused and wakes nobody; without WAKE_TOKEN there is no such path."""
    worker = await daemon(POLLING_INTERVAL_SECONDS=3_600, WAKE_TOKEN=TOKEN)
    await eventually(worker.ready)
    refused = await worker.wake("another-token-than-that")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert (await worker.ask("POST", "/wake")).status_code == 401
    other = await worker.ask("GET", "/wake")
    assert (other.status_code, other.headers["allow"]) == (405, "POST")
    assert await worker.metric(WAKE_UPS) == 0
    assert await worker.stop() == 0
    closed = await daemon()
    unknown = await closed.ask("POST", "/nothing")
    answer = await closed.wake(TOKEN)
    assert (answer.status_code, answer.content) == (404, unknown.content)


async def test_a_storm_of_wake_ups_is_no_storm_of_polls(sandbox: Sandbox, daemon: Start) -> None:
    """Calls without a pause for two seconds: at most forty polls a second, and a dead API is hardly asked at all."""
    worker = await daemon(POLLING_INTERVAL_SECONDS=3_600, WAKE_TOKEN=TOKEN, CIRCUIT_BREAKER_THRESHOLD=1_000)
    await eventually(worker.ready)
    before, began = sandbox.stats.polls, time.monotonic()
    await storm(worker, 2.0)
    assert sandbox.stats.polls - before <= 40 * (time.monotonic() - began) + 2
    sandbox.faults.add("pending", status=503)
    before = sandbox.stats.polls
    await storm(worker, 2.0)
    assert sandbox.stats.polls - before <= 10
    assert await worker.metric(WAKE_UPS) > 40, "the storm was none"


async def storm(worker: DaemonProcess, seconds: float) -> None:
    ends_at = time.monotonic() + seconds
    async with httpx2.AsyncClient(trust_env=False) as client:
        while time.monotonic() < ends_at:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            await client.post(f"http://127.0.0.1:{worker.port}/wake", headers=headers, timeout=5)


# --- what is said when something is wrong


async def test_a_token_endpoint_that_hangs_delays_neither_probes_nor_the_end(sandbox: Sandbox, daemon: Start) -> None:
    """Still starting, healthy, and gone at once on SIGTERM."""
    sandbox.faults.add("token", hang=True)
    worker = await daemon()
    await eventually(lambda: sandbox.stats.token_requests == 1)
    assert (await worker.get("/health")).status_code == 200
    assert await worker.reasons() == ["starting"]
    assert (await worker.status())["state"] == "starting"
    assert await time_to_stop(worker) < 1.0 + ALLOWANCE_S


async def test_an_api_that_answers_html_is_named(sandbox: Sandbox, daemon: Start) -> None:
    """A login page instead of the list: unready for that reason, one line when it begins and one when it ends."""
    fault = sandbox.faults.add("pending", status=200, body="html")
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.2)
    await eventually(lambda: worker.unready_for("upstream_unavailable: the answer is not a JSON array"))
    assert len(await worker.reasons()) == 1
    assert (await worker.get("/health")).status_code == 200
    asked = await worker.command("status", "--url", f"http://127.0.0.1:{worker.port}")
    assert (asked.code, asked.out.splitlines()[0]) == (1, "degraded, not ready")
    await asyncio.sleep(1.0)
    last = {error["event"]: error["component"] for error in (await worker.status())["last_errors"]}
    assert (last["poll.failed"], last["breaker.opened"]) == ("poll", "api_poll")
    fault.times = fault.hits
    await eventually(worker.ready, timeout=40)
    assert len(worker.events("poll.recovered")) == 1
    told = [event["reason"] for event in worker.events("poll.failed")]
    assert len(told) == len(set(told))


async def test_a_full_house_is_ready(sandbox: Sandbox, daemon: Start) -> None:
    """All slots busy for long is work, not trouble."""
    served = sandbox.tasks.add(text="before")
    worker = await daemon(CONCURRENCY_LIMIT=2, SHUTDOWN_GRACE_SECONDS=1, POLLING_INTERVAL_SECONDS=0.5)
    await sandbox.tasks.settled([served], timeout=20)
    sandbox.faults.add("model", hang=True)
    for number in range(3):
        sandbox.tasks.add(text=f"slow {number}")
    await worker.status_when(lambda status: status["slots"]["running"] == 2)
    await asyncio.sleep(1.0)
    assert await worker.reasons() == []
    status = await worker.status()
    assert status["why_idle"] is None
    assert {task["type"] for task in status["running_tasks"]} == {"text_embedding"}
    assert min(task["age_seconds"] for task in status["running_tasks"]) >= 1.0
    assert status["throughput"]["last_minute"]["acknowledged"] == 1
    (model,) = status["models"]
    assert (model["name"], model["kind"], model["running_calls"] >= 1) == (MODEL, "embedding", True)


# --- how it ends


async def test_an_idle_daemon_leaves_at_once(sandbox: Sandbox, daemon: Start) -> None:
    """SIGTERM with nothing to do: exit 0 within a moment, not after the grace period."""
    worker = await daemon()
    await eventually(worker.ready)
    assert await time_to_stop(worker) < 1.0 + ALLOWANCE_S
    assert worker.events("drain.finished")[0]["waiting"] == 0


async def test_a_drain_does_not_wait_for_an_api_that_is_away(sandbox: Sandbox, daemon: Start) -> None:
    """A blip is waited for, an outage is not: the results stay in the outbox, and the next start delivers them."""
    fault = sandbox.faults.add("patch", reset=True)
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(20)]
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.5)
    await worker.status_when(
        lambda status: status["outbox"]["waiting"] == 20 and status["circuits"]["api_delivery"]["state"] == "open", 20
    )
    assert 4.0 <= await time_to_stop(worker) < 8.0 + ALLOWANCE_S
    assert worker.events("drain.finished")[0]["waiting"] == 20
    fault.times = fault.hits
    again = await daemon()
    assert again.events("outbox.recovered")[0]["results"] == 20
    await sandbox.tasks.settled(ids, timeout=70)
    assert sandbox.stats.model_inputs == 20


async def test_a_drain_uses_a_blip(sandbox: Sandbox, daemon: Start) -> None:
    """An API that is back within seconds gets its results before the end."""
    sandbox.faults.add("patch", status=503, times=1)
    task_id = sandbox.tasks.add(text="text")
    worker = await daemon()
    await eventually(lambda: sandbox.stats.patches >= 1)
    assert await worker.stop() == 0
    assert sandbox.tasks[task_id].state == "succeeded"
    assert worker.events("drain.finished")[0]["waiting"] == 0


async def test_the_grace_period_ends_a_drain(sandbox: Sandbox, daemon: Start) -> None:
    """What does not finish within it is named and left pending; exit 0."""
    sandbox.faults.add("model", hang=True)
    task_id = sandbox.tasks.add(text="slow")
    worker = await daemon(SHUTDOWN_GRACE_SECONDS=2)
    await eventually(lambda: sandbox.stats.model_requests == 1)
    worker.send(signal.SIGTERM)
    assert await worker.exit_code(timeout=4) == 0
    assert worker.events("drain.cut")[0]["tasks"] == [task_id]
    assert sandbox.tasks[task_id].state == "pending"


async def test_a_signal_ends_the_wait_for_another_daemon(sandbox: Sandbox, daemon: Start) -> None:
    """Waiting for the lock of the outbox is no work: SIGTERM ends it at once with 0, and disturbs nobody."""
    first = await daemon()
    second = await daemon(wait=False)
    await eventually(lambda: second.events("outbox.awaited"), timeout=30)
    assert not second.events("daemon.started")
    assert await time_to_stop(second) < 1.0 + ALLOWANCE_S
    assert second.events("daemon.stopped")
    assert (await first.get("/health")).status_code == 200


async def test_a_taken_port_is_one_line_and_78(sandbox: Sandbox, daemon: Start, tmp_path: Path) -> None:
    """The line names METRICS_PORT; the outbox is free again for the next start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        finished = await (await daemon(spawn=False, METRICS_PORT=taken.getsockname()[1])).command("run")
    assert (finished.code, finished.out) == (78, "")
    (line,) = [line for line in finished.err.splitlines() if not line.startswith("{")]
    assert "METRICS_PORT" in line
    worker = await daemon()
    assert (await worker.get("/health")).status_code == 200


BROKEN = """
import asyncio

from ai_task_processor.engine.delivery import Delivery


async def broken(self, group):
    raise RuntimeError("the text of a user")


Delivery._start_due = broken
"""


async def test_a_bug_in_a_companion_ends_with_one_line_and_70(sandbox: Sandbox, daemon: Start, tmp_path: Path) -> None:
    """A daemon that cannot do all of its work does not pretend: one structured line, no message of a stranger."""
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    finished = await (await daemon(spawn=False, PYTHONPATH=tmp_path)).command("run")
    assert finished.code == 70
    crashes = [json.loads(line) for line in finished.err.splitlines() if "daemon.crashed" in line]
    assert len(crashes) == 1
    assert "RuntimeError" in crashes[0]["exception"]
    assert "delivery.py" in crashes[0]["exception"]
    assert "the text of a user" not in finished.err
    assert "Traceback" not in finished.err


async def test_the_drain_command_delivers_and_leaves(sandbox: Sandbox, daemon: Start) -> None:
    """``drain`` claims nothing; 75 while something is left, 0 when all is delivered; it stops when told to."""
    fault = sandbox.faults.add("patch", hang=True)
    task_id = sandbox.tasks.add(text="kept")
    first = await daemon()
    await eventually(lambda: sandbox.stats.patches == 1)
    await first.kill()
    later = sandbox.tasks.add(text="not claimed")
    drain = await daemon("drain", SHUTDOWN_GRACE_SECONDS=1)
    await eventually(lambda: sandbox.stats.patches == 2)
    assert await drain.reasons() == ["draining"]
    drain.send(signal.SIGTERM)
    assert await drain.exit_code(timeout=2 + ALLOWANCE_S) == 75
    fault.times = fault.hits
    again = await daemon("drain")
    assert await again.exit_code() == 0
    assert (sandbox.tasks[task_id].state, sandbox.tasks[later].state) == ("succeeded", "pending")
