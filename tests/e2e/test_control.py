"""Operators change the running daemon: pause, resume, log level; with a token that may be replaced."""

import asyncio
import signal
from pathlib import Path

from tests.e2e.conftest import DaemonProcess, Start, WatchedSandbox, eventually
from tests.e2e.test_acknowledgements import QUICK

TOKEN, NEXT, WAKE = "a-control-token-of-the-tests", "the-next-control-token", "a-wake-token-of-the-tests"


async def said(worker: DaemonProcess, *arguments: str, code: int = 0) -> str:
    """What a command prints, on stdout when it goes well."""
    finished = await worker.command(*arguments)
    assert finished.code == code, finished
    return finished.err if code else finished.out


async def test_a_paused_daemon_claims_nothing_until_it_is_resumed(
    sandbox: WatchedSandbox, daemon: Start, free_port: int
) -> None:
    """What runs ends and is delivered; the pause outlasts a restart; ready and healthy it is all the time.

    ``run --until-empty`` waits for the end of the pause, and for the tasks behind it.
    """
    given = {**QUICK, "METRICS_PORT": free_port, "CONTROL_TOKEN": TOKEN, "WAKE_TOKEN": WAKE}
    given["ENABLED_TASK_TYPES"] = "sleep"
    worker = await daemon(**given)
    running = sandbox.tasks.add(type="sleep", content={"seconds": 0.7})
    await worker.status_when(lambda status: status["slots"]["running"] == 1)
    assert "paused since" in await said(worker, "pause", "--reason", "the database is moved")
    waiting = sandbox.tasks.add(type="sleep", content={"seconds": 0})
    polls = sandbox.stats.polls
    await sandbox.tasks.settled([running], timeout=10)
    assert (await worker.wake(WAKE)).status_code == 202
    await worker.metric_when("paused", bool)
    await shows_the_pause(worker)

    assert await worker.stop() == 0
    worker = await daemon("run", "--until-empty", **given)
    await asyncio.sleep(0.5)
    await shows_the_pause(worker)
    assert (sandbox.stats.polls, sandbox.tasks[waiting].callbacks) == (polls, 0)
    assert len(worker.events("daemon.paused")) == 1

    assert await said(worker, "resume") == "resumed: tasks are claimed again\n"
    await sandbox.tasks.settled([waiting], timeout=5)
    assert await worker.exit_code() == 0


async def shows_the_pause(worker: DaemonProcess) -> None:
    status, ready = await worker.status(), await worker.get("/ready")
    assert (status["paused"]["reason"], status["state"]) == ("the database is moved", "running")
    assert status["why_idle"].endswith("Z: the database is moved")
    assert (ready.status_code, ready.json()["notes"]) == (200, [f"paused_by_operator: {status['why_idle']}"])


async def test_control_needs_its_token_which_may_be_replaced(
    sandbox: WatchedSandbox, daemon: Start, free_port: int, tmp_path: Path
) -> None:
    """Not WAKE_TOKEN; a new one of the file holds after SIGHUP. The log level is shown to everybody, set by few."""
    (file := tmp_path / "token").write_text(TOKEN)
    given = {**QUICK, "METRICS_PORT": free_port, "WAKE_TOKEN": WAKE}
    worker = await daemon(CONTROL_TOKEN_FILE=file, **given)
    for path in ("/pause", "/resume", "/log-level?level=DEBUG"):
        for token in (WAKE, "another-token-of-the-tests"):
            refused = await worker.ask("POST", path, authorization=f"Bearer {token}")
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert (await worker.ask("GET", path, authorization=f"Bearer {TOKEN}")).status_code == 405
    assert (await worker.wake(TOKEN)).status_code == 401
    status = await worker.status()
    assert (status["paused"], status["log_level"]) == (None, "INFO")

    assert await said(worker, "log-level", "debug", "--for", "1h") == "the daemon logs DEBUG until 3600 s from now\n"
    assert await said(worker, "log-level") == "DEBUG\n"
    await sandbox.tasks.settled([sandbox.tasks.add("text")], timeout=5)
    await eventually(lambda: worker.events("delivery.acknowledged"))

    file.write_text(f"{NEXT}\n")
    assert "CONTROL_TOKEN is not that of the daemon" in await said(worker, "resume", code=78)
    worker.send(signal.SIGHUP)
    await eventually(lambda: worker.events("secret.replaced"))
    assert await said(worker, "resume") == "resumed: tasks are claimed again\n"
    assert TOKEN not in worker.log.read_text()
    assert NEXT not in worker.log.read_text()

    assert await worker.stop() == 0
    assert "no daemon answers at 127.0.0.1" in await said(worker, "resume", code=69)
    bare = await daemon(**given)
    assert "CONTROL_TOKEN is missing: set it" in await said(bare, "pause", code=78)
    assert "CONTROL_TOKEN is not set for the daemon" in await said(worker, "pause", code=78)
    unknown = await bare.ask("POST", "/nothing")
    answer = await bare.ask("POST", "/pause", authorization=f"Bearer {NEXT}")
    assert (answer.status_code, answer.content) == (404, unknown.content)
