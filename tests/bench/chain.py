"""Requests to verify a claim through their five tasks, with the real daemon and the sandbox: ``make bench ARGS=chain``.

The sandbox plays the upstream with the rules of its callbacks, the model and Wikidata. A request's time is from its
first task to the acknowledgement of its last.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.claims import Claim
from ai_task_processor.sandbox.verifications import AREAS, Verification
from tests.bench import machine
from tests.bench.alone import percentile
from tests.bench.contest import Plan, tell
from tests.bench.promise import room
from tests.bench.report import Bound, Section
from tests.e2e.conftest import DaemonProcess

REQUESTS, CHAT_TASKS = 200, 2_000
#: latency of the model where time is measured, and where it is not, seconds
MODEL_S, FAST_MODEL_S = 1.0, 0.05
#: share of the answers that a habit spoils, and how long Wikidata is away, seconds
SPOILED, AWAY_S = 0.2, 30.0
HABITS = ("prose", "fence", "truncated", "refusal", "filtered", "wrong", "unlisted", "tool_call", "empty")
AWAY: Mapping[str, dict[str, Any]] = {
    "Wikidata 429 for 30 s": {"status": 429, "headers": {"Retry-After": "1"}},
    "Wikidata down for 30 s": {"reset": True},
}
#: a run is given up after so long without a further acknowledged task, seconds
GIVEN_UP_S = 90.0
HEADS = ("run", "in triage", "right", "failed", "refused", "chat calls", "tokens", "p50 s", "p99 s", "all s", "CPU ms")


@dataclass(frozen=True, slots=True)
class Seen:
    """One run. Calls, tokens and CPU are for each request."""

    requests: int
    triaged: int
    right: int
    failed: int
    refused: int
    calls: float
    tokens: float
    p50_s: float
    p99_s: float
    all_s: float
    cpu_ms: float

    def cells(self) -> tuple[str, ...]:
        counts = (f"{self.triaged} of {self.requests}", self.right, self.failed, self.refused)
        rates = (f"{self.calls:.2f}", f"{self.tokens:,.0f}")
        times = (f"{each:.1f}" for each in (self.p50_s, self.p99_s, self.all_s, self.cpu_ms))
        return *map(str, counts), *rates, *times


def right(number: int, request: Verification) -> bool:
    """Everything that is true of its claim: no person lost, no topic without its id, its area and its severity."""
    claim, fields = Claim.numbered(number), request.fields
    if request.status != "In Triage":
        return False
    people = [each["wikidata"]["id"] for each in fields["identifiedData"]]
    topics = [(each["name"], each["wikidataId"]) for each in fields["topics"]]
    found = (people, topics, fields["impactArea"], fields["severity"])
    true_topics = [(each.name, each.id) for each in claim.topics]
    return found == ([each.id for each in claim.people], true_topics, claim.area(AREAS), claim.severity)


async def run(
    requests: int,
    *,
    slots: int,
    model_s: float,
    habits: Mapping[str, float] | None = None,
    wikidata: Mapping[str, Any] | None = None,
) -> Seen:
    """All these requests, with one fault at most."""
    async with room(model_latency_s=model_s) as here:
        sandbox = here.sandbox
        sandbox.chat.rng = random.Random(11)
        sandbox.chat.behave(habits or {})
        worker = await here.daemon(CONCURRENCY_LIMIT=slots)
        cpu_s = machine.cpu_s(worker.pid)
        began = time.monotonic()
        for number in range(requests):
            sandbox.verifications.add(Claim.numbered(number).text)
        if wikidata is not None:
            sandbox.faults.add("wikidata", **wikidata)
            await asyncio.sleep(AWAY_S)
            sandbox.faults.clear()
        await _settled(sandbox, requests)
        all_s, cpu_s = time.monotonic() - began, machine.cpu_s(worker.pid) - cpu_s
        return _seen(sandbox, all_s, cpu_s)


async def _settled(sandbox: Sandbox, requests: int) -> None:
    seen, since, ended = 0, time.monotonic(), 0
    while ended < requests and time.monotonic() - since < GIVEN_UP_S:
        await asyncio.sleep(0.05)
        failed = sum(task.state is TaskStatus.FAILED for task in sandbox.tasks)
        ended = failed + Counter(each.status for each in sandbox.verifications.requests.values())["In Triage"]
        acknowledged = sum(task.acknowledged_at is not None for task in sandbox.tasks)
        if acknowledged > seen:
            seen, since = acknowledged, time.monotonic()


def _seen(sandbox: Sandbox, all_s: float, cpu_s: float) -> Seen:
    requests = sandbox.verifications.requests
    times = []
    for request in requests.values():
        last = sandbox.tasks[request.tasks["severity"]] if "severity" in request.tasks else None
        if last is not None and last.acknowledged_at is not None:
            times.append((last.acknowledged_at - sandbox.tasks[request.tasks["embedding"]].created_at).total_seconds())
    chat = sandbox.chat
    return Seen(
        requests=len(requests),
        triaged=sum(request.status == "In Triage" for request in requests.values()),
        right=sum(right(number, request) for number, request in enumerate(requests.values())),
        failed=sum(task.state is TaskStatus.FAILED for task in sandbox.tasks),
        refused=len(sandbox.verifications.refused),
        calls=chat.calls / len(requests),
        tokens=(chat.prompt_tokens + chat.completion_tokens) / len(requests),
        p50_s=percentile(times, 0.5) if times else 0.0,
        p99_s=percentile(times, 0.99) if times else 0.0,
        all_s=all_s,
        cpu_ms=1_000 * cpu_s / len(requests),
    )


async def chat_cpu_ms(tasks: int, slots: int) -> float:
    """CPU of one task of the type ``chat`` at a model without latency, milliseconds."""
    async with room() as here:
        worker: DaemonProcess = await here.daemon(CONCURRENCY_LIMIT=slots, ENABLED_TASK_TYPES="chat")
        cpu_s = machine.cpu_s(worker.pid)
        said = [{"role": "user", "content": "Hello"}]
        ids = [here.sandbox.tasks.add(type="chat", content={"messages": said}) for _ in range(tasks)]
        await here.sandbox.tasks.settled(ids, timeout=120)
        return 1_000 * (machine.cpu_s(worker.pid) - cpu_s) / tasks


def chain(plan: Plan) -> list[Section]:
    """Time at a slow model, every habit, Wikidata away, and the CPU of one chat task."""
    return [asyncio.run(_measured(REQUESTS // 10 if plan.quick else REQUESTS, plan))]


async def _measured(requests: int, plan: Plan) -> Section:
    section = Section("chain", f"{requests} requests to verify a claim, five tasks each")
    section.rows.append(HEADS)

    async def row(name: str, **how: Any) -> None:
        tell(f"chain: {name}")
        seen = await run(requests, **how)
        section.rows.append((name, *seen.cells()))
        section.figures[name] = {field: getattr(seen, field) for field in Seen.__slots__}
        counts = (seen.right, seen.failed, seen.refused)
        wanted = (requests, 0, 0)
        measured = f"{seen.right} right, {seen.failed} failed, {seen.refused} refused"
        section.bounds.append(Bound(name, measured, f"{requests}, 0, 0", counts == wanted))

    for slots in (8, 64):
        await row(f"model {MODEL_S:g} s, {slots} slots", slots=slots, model_s=MODEL_S)
    for habit in HABITS:
        await row(f"{SPOILED:.0%} {habit}", slots=64, model_s=FAST_MODEL_S, habits={habit: SPOILED})
    for name, fault in AWAY.items():
        await row(name, slots=64, model_s=FAST_MODEL_S, wikidata=fault)
    tasks = CHAT_TASKS // 10 if plan.quick else CHAT_TASKS
    section.figures["chat_cpu_ms"] = cpu_ms = await chat_cpu_ms(tasks, slots=64)
    section.rows.append((f"{tasks:,} chat tasks, 64 slots", *[""] * (len(HEADS) - 2), f"{cpu_ms:.2f} a task"))
    return section
