"""``ai-task-processor outbox`` and ``drain``: what an operator sees of kept results, and what becomes of a request."""

import asyncio
import json
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.contract.outboxes import record, store
from tests.e2e.conftest import MODEL, DaemonProcess, Start, eventually, spawned

#: what a promise of one second may take longer on a machine that does other things too
BUSY_MACHINE_S = 2.0


def refuse(sandbox: Sandbox, texts: Iterable[str], status: int = 413) -> list[str]:
    """Tasks whose results the API refuses; they stay in its list."""
    ids = [sandbox.tasks.add(text=text) for text in texts]
    for task_id in ids:
        sandbox.faults.add("patch", status=status, task_id=task_id)
    return ids


async def listed(worker: DaemonProcess, *arguments: str) -> dict[str, dict[str, Any]]:
    """What ``outbox list --json`` says, by task id."""
    finished = await worker.command("outbox", "list", "--json", *arguments)
    assert (finished.code, finished.err) == (0, "")
    return {entry["task_id"]: entry for entry in map(json.loads, finished.out.splitlines())}


async def test_dead_letters_are_shown_retried_dropped_and_replaced_beside_a_running_daemon(
    sandbox: Sandbox, daemon: Start
) -> None:
    """A dead letter is listed with its reason, shown bit for bit, and rests until retry, drop or changed content."""
    retried, dropped, edited = dead = refuse(sandbox, ["to retry", "to drop", "to edit"])
    sandbox.faults.add("patch", status=500, task_id=(waiting := sandbox.tasks.add(text="waits")))
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.3, CIRCUIT_BREAKER_THRESHOLD=50)
    await eventually(lambda: len(worker.events("delivery.refused")) == 3 and worker.events("delivery.deferred"))

    # seen
    entries = await listed(worker)
    assert entries.keys() == {*dead, waiting}
    assert {entries[task_id]["state"] for task_id in dead} == {"dead"}
    reason = "refused (HTTP 413): Request Entity Too Large (a fault of the sandbox)"
    assert {entries[task_id]["reason"] for task_id in dead} == {reason}
    assert {(entries[task_id]["attempts"], entries[task_id]["due_at"]) for task_id in dead} == {(1, None)}
    assert (entries[waiting]["state"], entries[waiting]["status"]) == ("waiting", "succeeded")
    assert (await listed(worker, "--dead")).keys() == set(dead)
    table = (await worker.command("outbox", "list", "--dead")).out.splitlines()
    assert len(table) == 4
    assert all(reason in line for line in table[1:])
    shown = await worker.command("outbox", "show", retried)
    body = json.loads(shown.out)["body"]
    assert (shown.code, body["state"]) == (0, "succeeded")
    assert np.array(body["result"], "<f4").tobytes() == sandbox.vector("to retry", MODEL)

    # at rest, although the API lists them
    polls = sandbox.stats.polls
    await eventually(lambda: sandbox.stats.polls >= polls + 3)
    assert [sandbox.model.times_charged(text) for text in ("to retry", "to drop", "to edit")] == [1, 1, 1]
    assert {sandbox.tasks[task_id].patches for task_id in dead} == {0}

    # retried: the one that only waits (before its fault is gone, or it might leave by itself), and a dead letter
    assert (await worker.command("outbox", "retry", waiting)).out == "1 record retried\n"
    sandbox.faults.clear()
    await sandbox.tasks.settled([waiting], timeout=45)
    assert (await worker.command("outbox", "retry", retried)).out == "1 record retried\n"
    await sandbox.tasks.settled([retried], timeout=1 + BUSY_MACHINE_S)
    assert sandbox.tasks[retried].result == sandbox.vector("to retry", MODEL)
    assert sandbox.model.times_charged("to retry") == 1

    # dropped, with a task that is not there
    finished = await worker.command("outbox", "drop", dropped, "nobody")
    assert (finished.code, finished.out.partition(";")[0]) == (66, "1 record dropped")
    assert finished.err == "ai-task-processor: the outbox holds nothing for 'nobody'\n"
    await sandbox.tasks.settled([dropped], timeout=10)
    assert (sandbox.tasks[dropped].patches, sandbox.model.times_charged("to drop")) == (1, 1), "paid for once"

    # edited upstream
    task = sandbox.tasks[edited]
    task.record = task.record.replace(b"to edit", b"edited")
    await sandbox.tasks.settled([edited], timeout=10)
    assert task.result == sandbox.vector("edited", MODEL)

    assert {task.callbacks for task in sandbox.tasks} == {1}
    empty = {"waiting": 0, "dead_letters": 0, "quarantined": 0, "bytes": 0}
    await worker.status_when(lambda status: status["outbox"].items() >= empty.items())
    assert (await worker.command("outbox", "list")).out == "the outbox is empty\n"
    assert (await worker.command("outbox", "list", "--dead")).out == "no dead letters\n"
    requested = {(event["task_id"], event["action"]) for event in worker.events("outbox.requested")}
    assert requested == {(waiting, "retry"), (retried, "retry"), (dropped, "drop")}


async def test_without_a_daemon_results_are_shown_and_requests_noted_and_drain_delivers_them(
    sandbox: Sandbox, daemon: Start
) -> None:
    """After a kill: list and show work, a retry is noted, ``drain`` delivers all, claims nothing and leaves with 0."""
    dead, useless = refuse(sandbox, ["refused", "useless"])
    left = [sandbox.tasks.add(text=f"left {number}") for number in range(4)]
    for task_id in left:
        sandbox.faults.add("patch", hang=True, task_id=task_id)
    worker = await daemon(POLLING_INTERVAL_SECONDS=0.3)
    await eventually(lambda: len(worker.events("delivery.refused")) == 2 and sandbox.stats.patches == 6)
    await worker.kill()
    assert (await listed(worker)).keys() == {dead, useless, *left}
    for task_id in ("nobody", "../../etc/passwd"):
        missing = await worker.command("outbox", "show", task_id)
        assert (missing.code, missing.out) == (66, "")
        assert task_id in missing.err
    noted = await worker.command("outbox", "retry", dead)
    assert noted.out == "1 record to be retried: no daemon is running here, run and drain do it\n"
    sandbox.faults.clear()
    new = sandbox.tasks.add(text="not for a drain")
    polls, model_requests = sandbox.stats.polls, sandbox.stats.model_requests
    drained = await daemon("drain", wait=False)
    assert await drained.exit_code() == 0
    assert [sandbox.tasks[task_id].callbacks for task_id in (dead, *left)] == [1] * 5
    assert sandbox.tasks[left[0]].result == sandbox.vector("left 0", MODEL)
    assert (sandbox.stats.polls, sandbox.stats.model_requests) == (polls, model_requests)
    assert sandbox.tasks[new].state == "pending"
    assert drained.events("outbox.recovered")[0]["results"] == 4
    assert drained.events("drain.finished")[-1]["waiting"] == 0
    assert (await listed(worker)).keys() == {useless}
    assert (await worker.command("outbox", "drop", useless)).out.startswith("1 record to be dropped: no daemon")
    assert await (await daemon("drain", wait=False)).exit_code() == 0, "with nothing to deliver"
    assert await listed(worker) == {}


async def test_a_drain_that_is_stopped_says_that_something_is_left(sandbox: Sandbox, daemon: Start) -> None:
    """SIGTERM while results cannot be delivered: 75 within the grace period, and the results stay."""
    task_id = sandbox.tasks.add(text="stays")
    sandbox.faults.add("patch", status=500)
    first = await daemon()
    await eventually(lambda: first.events("delivery.deferred"))
    await first.kill()
    draining = await daemon("drain", SHUTDOWN_GRACE_SECONDS=1)
    draining.send(signal.SIGTERM)
    assert await draining.exit_code() == 75
    # By its own clock, so that a busy machine's slow exit does not count.
    (began,), (ended,) = (draining.events(f"drain.{name}") for name in ("started", "finished"))
    lasted = datetime.fromisoformat(ended["timestamp"]) - datetime.fromisoformat(began["timestamp"])
    assert lasted.total_seconds() < 2
    assert draining.events("drain.finished")[-1]["waiting"] == 1
    assert (await listed(first)).keys() == {task_id}


@pytest.mark.parametrize(
    "settings",
    [{"CONCURRENCY_LIMIT": 4}, {"CONCURRENCY_LIMIT": 5, "CIRCUIT_BREAKER_THRESHOLD": 1000}],
    ids=["the circuit opens", "the circuit stays closed"],
)
async def test_a_full_outbox_stops_claiming_until_results_have_left(
    sandbox: Sandbox, daemon: Start, settings: dict[str, int]
) -> None:
    """OUTBOX_MAX_BYTES reached while deliveries fail: nothing more is claimed or paid for; afterwards it goes on."""
    sandbox.faults.add("patch", status=503)
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(60)]
    worker = await daemon(OUTBOX_MAX_BYTES=2**16, POLLING_INTERVAL_SECONDS=0.5, **settings)

    async def full() -> bool:
        return [reason.partition(":")[0] for reason in await worker.reasons()] == ["outbox_full"]

    await eventually(full, timeout=20)
    told = await worker.status_when(
        lambda it: str(it["why_idle"]).startswith("outbox_full: ") and it["slots"]["running"] == 0
    )
    assert told["outbox"]["bytes"] < 2 * 2**16
    inputs, polls = sandbox.stats.model_inputs, sandbox.stats.polls
    await asyncio.sleep(2.0)
    assert (sandbox.stats.model_inputs, sandbox.stats.polls) == (inputs, polls)
    # A record is charged with its vector (6,144 bytes) and a little; what ran when the limit was reached still came in.
    assert 2**16 // 6_500 <= inputs <= 2**16 // 6_144 + 5
    assert (await worker.get("/health")).status_code == 200
    sandbox.faults.clear()
    await sandbox.tasks.settled(ids, timeout=60)
    assert {sandbox.tasks[task_id].callbacks for task_id in ids} == {1}
    assert sandbox.stats.model_inputs == 60
    await eventually(worker.ready)


async def test_a_long_list_into_a_closed_pipe_is_no_error(daemon: Start, tmp_path: Path) -> None:
    """``outbox list | head -1`` on 3,000 records: one line, no traceback, exit 0."""
    async with store(tmp_path / "data") as outbox:
        await asyncio.gather(*(outbox.put(record(f"task-{number}", body=b'"kept"')) for number in range(3_000)))
    worker = await daemon(spawn=False)
    for arguments in ("", "--json"):
        line = f"set -o pipefail; {sys.executable} -m ai_task_processor outbox list {arguments} | head -1"
        async with spawned("bash", "-c", line, env=worker.environment, stdout=PIPE, stderr=PIPE) as process:
            out, err = await process.communicate()
        assert (process.returncode, err.decode(), out.count(b"\n")) == (0, "", 1)


async def test_without_an_outbox_there_is_one_line_and_73(sandbox: Sandbox, daemon: Start, tmp_path: Path) -> None:
    """Every ``outbox`` action where no daemon ever ran: exit 73, one line that names DATA_DIR, and nothing is made."""
    worker = await daemon(spawn=False, DATA_DIR=tmp_path / "never")
    for arguments in (("list",), ("show", "a"), ("retry", "a"), ("drop", "a")):
        finished = await worker.command("outbox", *arguments)
        assert (finished.code, finished.out) == (73, "")
        assert re.fullmatch(r"ai-task-processor: DATA_DIR .* shows no outbox: .*\n", finished.err)
    assert not (tmp_path / "never").exists()
