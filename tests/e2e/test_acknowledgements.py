"""Answers to results that say nothing, or the wrong thing: each callback runs once, or somebody is told why not."""

import signal

from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.conftest import MOCK, DaemonProcess, Start, eventually

QUICK = {**MOCK, "OPENAI_BASE_URL": "", "POLLING_INTERVAL_SECONDS": 0.3}


async def all_delivered(worker: DaemonProcess) -> None:
    await worker.status_when(lambda status: status["outbox"]["waiting"] == 0)


async def test_a_handler_that_returns_nothing_gets_each_result_once(
    sandbox: Sandbox, daemon: Start, free_port: int
) -> None:
    """200, 201, 202 and 205 without a body: one callback for each task, one warning, ready, and no complaint."""
    worker = await daemon(METRICS_PORT=free_port, **QUICK)
    ids = []
    for status in (200, 201, 202, 205):
        sandbox.faults.clear()
        sandbox.faults.add("patch", status=status, body="empty", after=True)
        ids += (added := [sandbox.tasks.add(f"{status} {number}") for number in range(5)])
        await eventually(lambda added=added: all(sandbox.tasks[task_id].callbacks for task_id in added))
    await all_delivered(worker)
    assert [sandbox.tasks[task_id].callbacks for task_id in ids] == [1] * 20
    assert len(worker.events("delivery.unverified")) == 1
    assert (await worker.get("/ready")).status_code == 200
    visit = await worker.command("doctor")
    assert (visit.code, visit.out.splitlines()[-1][:5]) == (0, "Ready")


async def test_an_api_that_answers_the_task_as_it_was_is_paused_and_named(
    sandbox: Sandbox, daemon: Start, free_port: int
) -> None:
    """Few callbacks, then a pause with the sentence, in log, /ready, /status and doctor; nothing is lost or failed."""
    sandbox.faults.add("patch", content='{"state":"pending"}', after=True)
    ids = [sandbox.tasks.add(f"text {number}") for number in range(10)]
    worker = await daemon(METRICS_PORT=free_port, **QUICK)
    sentence = "the task API answers results with the task as it was before: return the updated document ({new: true})"
    await eventually(lambda: worker.unready_for("results_refused"), timeout=30)
    assert any(reason.startswith(f"results_refused: {sentence}") for reason in await worker.reasons())
    assert sentence in (await worker.status())["why_idle"]
    (paused,) = worker.events("remote.paused")
    assert sentence in paused["reason"]
    assert paused["seconds"] == 300
    callbacks = sum(sandbox.tasks[task_id].callbacks for task_id in ids)
    assert callbacks <= 7, "three answers, and what was under way"
    visit = await worker.command("doctor")
    assert visit.code == 78
    assert all(part in visit.out for part in sentence.split(": ", 1))

    # mended: a hang-up tries again at once
    sandbox.faults.clear()
    worker.send(signal.SIGHUP)
    await all_delivered(worker)
    assert max(sandbox.tasks[task_id].callbacks for task_id in ids) <= 3 + 1
    assert {sandbox.tasks[task_id].state for task_id in ids} == {"succeeded"}
    assert (await worker.get("/ready")).status_code == 200


async def test_a_dead_letter_shows_its_attempts_and_the_apis_words(sandbox: Sandbox, daemon: Start) -> None:
    """Refused after a failure: two attempts as in the log, no due time, and the message without what was sent."""
    task_id = sandbox.tasks.add("hello")
    refusal = '{"statusCode":400,"message":["result.0 is 0.25, which must not be a decimal number"]}'
    sandbox.faults.add("patch", status=500, times=1)
    sandbox.faults.add("patch", status=400, content=refusal)
    worker = await daemon(**QUICK)
    (refused,) = await eventually(lambda: worker.events("delivery.refused"))
    reason = "refused (HTTP 400): result.0 is …, which must not be a decimal number"
    assert (refused["reason"], refused["attempts"]) == (reason, 2)
    (deferred,) = worker.events("delivery.deferred")
    assert deferred["reason"] == "the task API answered 500: Internal Server Error (a fault of the sandbox)"
    for command in (("list", "--json", "--dead"), ("show", task_id)):
        shown = (await worker.command("outbox", *command)).out
        assert '"attempts":2' in shown
        assert '"due_at":null' in shown
        assert reason in shown
