"""Traces of the real command, sent to a receiver: also over a crash, and when the receiver is down."""

import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from ai_task_processor.core.profiles import FOLDER
from ai_task_processor.engine.daemon import TRACES_S
from tests.e2e.conftest import Another, Start, WatchedSandbox, eventually, side_by_side
from tests.e2e.receiver import Receiver, picture

UPSTREAM = "00f067aa0ba902b7"
TRACEPARENT = f"00-4bf92f3577b34da6a3ce929d0e0e4736-{UPSTREAM}-01"
SECRET = "hunter2hunter2"


class Traced(WatchedSandbox):
    """A sandbox that keeps the ``traceparent`` of every request, by method and path."""

    def __init__(self) -> None:
        super().__init__()
        self.traceparents: list[tuple[str, str | None]] = []

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.traceparents.append((f"{request.method} {request.path}", request.headers.get("traceparent")))
        return await super()._answer(request)


@pytest.fixture
async def sandbox() -> AsyncIterator[Traced]:
    started = Traced()
    async with started:
        yield started


def settings(receiver: Receiver, **more: object) -> dict[str, object]:
    return {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": 50, "CONCURRENCY_LIMIT": 40, **more}


async def test_a_trace_goes_on_in_another_process(sandbox: Traced, daemon: Start, tmp_path: Path) -> None:
    """40 tasks in one call, and reports in vain until the process is killed; another one delivers, in the same traces.

    The call and the attempts are linked both ways, an attempt is linked with the upstream's span, and its reports are
    its children, each with the ``traceparent`` of its request. Neither content nor a header of the export is shown.
    """
    profile = (FOLDER / "aletheia.toml").read_text().replace("[fields]\n", '[fields]\ntrace = "/content/trace"\n')
    (tmp_path / "traced.toml").write_text(profile.replace('kind = "rest"\n', 'kind = "rest"\nname = "aletheia"\n'))
    content = {"text": SECRET, "trace": {"traceparent": TRACEPARENT, "baggage": f"user={SECRET}"}}
    ids = [sandbox.tasks.add(content=content | {"text": f"{SECRET} {number}"}) for number in range(40)]
    sandbox.faults.add("patch", status=503)
    async with Receiver() as receiver:
        given = settings(receiver, TASK_SOURCE=tmp_path / "traced.toml", OTEL_EXPORTER_OTLP_HEADERS=f"x-key={SECRET}")
        first = await daemon(**given, OTEL_SERVICE_NAME="first")
        await eventually(lambda: len(receiver.named("process")) == 40 and receiver.named("settle"))
        await first.kill()
        sandbox.faults.clear()
        sandbox.traceparents.clear()
        second = await daemon("drain", **given, wait=False)
        assert await second.exit_code() == 0
    await sandbox.tasks.settled(ids, timeout=5)
    sys.stdout.write(picture(receiver.spans))  # for who runs it with -s

    attempts = {span.id: span for span in receiver.named("process text_embedding")}
    calls = receiver.named("embeddings")
    assert {span.attributes["messaging.message.id"] for span in attempts.values()} == set(ids)
    assert all((span.parent, span.links[0], span.failed) == ("", UPSTREAM, False) for span in attempts.values())
    carried = {link: span.id for span in calls for link in span.links}
    assert {span.id: list(span.links[1:]) for span in attempts.values()} == {name: [carried[name]] for name in attempts}
    assert all((span.parent, span.attributes["server.address"]) == ("", "127.0.0.1") for span in calls)
    assert sum(int(str(span.attributes["gen_ai.usage.input_tokens"])) for span in calls) > 0
    assert {span.name for span in receiver.named("receive")} == {"receive ai-tasks"}
    failed = [span for span in receiver.named("settle") if span.service == "first"]
    settled = [span for span in receiver.named("settle") if span.service == "ai-task-processor"]
    assert {span.failed for span in failed} == {True}
    assert len(settled) == 40
    assert {span.parent for span in settled} == set(attempts)
    assert all(span.trace == attempts[span.parent].trace for span in (*failed, *settled))
    sent = {told for request, told in sandbox.traceparents if request.startswith("PATCH")}
    assert sent == {f"00-{span.trace}-{span.id}-03" for span in settled}
    assert {told for request, told in sandbox.traceparents if not request.startswith("PATCH")} <= {None}
    assert set(receiver.headers) == {SECRET}
    assert SECRET not in repr(receiver.spans) + first.log.read_text() + second.log.read_text()
    traced = [line["trace_id"] for line in first.events("task.completed")]
    assert sorted(traced) == sorted(span.trace for span in attempts.values())


async def test_a_receiver_that_is_down_delays_nothing(another_sandbox: Another, daemon: Start) -> None:
    """It hangs, or answers 500: every task is done, one line in the log says it, and the end is two seconds off."""

    async def run(receiver: Receiver, failures: int) -> None:
        api = await another_sandbox()
        ids = [api.tasks.add(text=f"text {number}") for number in range(40)]
        async with receiver:
            worker = await daemon("run", "--until-empty", to=api, **settings(receiver))
            await eventually(lambda: worker.events("drain.finished"), 20)
            finished_at = time.monotonic()
            assert await worker.exit_code() == 0
            assert time.monotonic() - finished_at < TRACES_S + 3  # an export takes up to 10 s
        assert receiver.requests
        assert len(worker.events("traces.failed")) == failures
        assert {api.tasks[each].state for each in ids} == {"succeeded"}

    await side_by_side(run(Receiver(hangs=True), 0), run(Receiver(status=500), 1))
