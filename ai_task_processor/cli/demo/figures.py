"""The expected results and the measured ones. Pure but for reading the sandbox."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from ai_task_processor.cli.demo.chain import TASKS_EACH, broken_chain, chain_figures
from ai_task_processor.cli.demo.words import Expected, Figures, Rows, Scrape
from ai_task_processor.models.task import TaskStatus, TaskType
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.corpus import REFUSED_TEXT
from ai_task_processor.sandbox.tasks import StoredTask

_DEFAULT_MODEL: Final = "text-embedding-3-small"
#: the daemon's reasons for skipping a listed task that stays pending, in words
_WHY_PENDING: Final = {"invalid": "record without a usable id", "unknown_type": "of an unknown type"}


def expectation(sandbox: Sandbox, task_id: str, task: Mapping[str, Any]) -> Expected:
    if task.get("type", TaskType.TEXT_EMBEDDING) != TaskType.TEXT_EMBEDDING:
        return Expected(task_id, TaskStatus.PENDING, reason="unknown_type")
    if "raw" in task:
        return Expected(task_id, TaskStatus.PENDING, reason="invalid")
    if task["text"] == REFUSED_TEXT:
        return Expected(task_id, TaskStatus.FAILED)
    vector = sandbox.vector(task["text"], task.get("model", _DEFAULT_MODEL))
    return Expected(task_id, TaskStatus.SUCCEEDED, vector)


def figures(tasks: Iterable[StoredTask], started_at: datetime) -> Figures:
    """The figures from the task API's memory, for a daemon started at ``started_at``."""
    tasks = list(tasks)
    settled = [task for task in tasks if task.acknowledged_at is not None]
    times = sorted(task.acknowledged_at for task in settled if task.acknowledged_at is not None)
    return Figures(
        succeeded=sum(task.state is TaskStatus.SUCCEEDED for task in settled),
        failed=Counter(task.code for task in settled if task.state is TaskStatus.FAILED),
        pending=sum(task.state is TaskStatus.PENDING for task in tasks),
        repeated=sum(max(0, task.patches - 1) for task in tasks),
        first_s=(times[0] - started_at).total_seconds() if times else 0.0,
        span_s=(times[-1] - times[0]).total_seconds() if times else 0.0,
    )


def broken(plan: Sequence[Expected], sandbox: Sandbox, scrape: Scrape) -> list[str]:
    """A sentence for every result that differs from the expected one; empty when all are right."""
    problems = [problem for task in plan if (problem := _wrong(task, sandbox.tasks[task.id])) is not None]
    problems += broken_chain(sandbox)
    states, reasons = Counter(task.state for task in plan), Counter(task.reason for task in plan if task.reason)
    states[TaskStatus.SUCCEEDED] += TASKS_EACH * len(sandbox.verifications.requests)
    for state, count in scrape.processed.items():
        if count != states[state]:
            problems.append(f"/metrics counts {count} tasks as {state}, not {states[state]}")
    for reason, count in reasons.items():
        if scrape.skipped.get(reason) != count:
            problems.append(f"/status counts {scrape.skipped.get(reason, 0)} tasks as {reason}, not {count}")
    return problems


def _wrong(expected: Expected, task: StoredTask) -> str | None:
    reports = 0 if expected.state is TaskStatus.PENDING else 1
    if task.state is not expected.state:
        return f"task {task.id} is {task.state}, not {expected.state}"
    if task.patches != reports:
        return f"task {task.id} ({task.state}) was reported {task.patches} times, not {reports}"
    if task.result != expected.vector:
        return f"task {task.id} has a vector that is not the model's"
    return None


def table(measured: Figures, plan: Sequence[Expected], sandbox: Sandbox, scrape: Scrape) -> Rows:
    """The rows of the final table: name and measured value."""
    stats, chain = sandbox.stats, chain_figures(sandbox)
    calls, texts = stats.model_requests - stats.chat_calls, measured.settled + chain.requests
    exact = sum(sandbox.tasks[task.id].result == task.vector for task in plan if task.vector is not None)
    why = {words: scrape.skipped.get(reason, 0) for reason, words in _WHY_PENDING.items()}
    return [
        ("tasks", f"{len(plan)}, beside {chain.tasks} of the verification requests"),
        ("succeeded", f"{measured.succeeded}, with {exact} vectors equal to the model's to the last bit"),
        ("failed", f"{measured.failed.total()} ({_listed(measured.failed)})"),
        ("still pending", f"{measured.pending} ({_listed(why)})"),
        ("duplicates", f"{measured.repeated + chain.repeated}"),
        ("speed", f"{measured.per_second:.0f} tasks per second, {scrape.slots} at a time"),
        ("first result", f"{measured.first_s:.1f} s after the start of the daemon"),
        ("embedding calls", f"{calls}, {calls / texts:.2f} per text, with those of the requests"),
        ("embedding tokens", f"{stats.model_tokens}"),
        ("token requests", f"{stats.token_requests}"),
        ("metrics", f"were at {scrape.url}/metrics, {scrape.series} series"),
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {word}" for word, count in counts.items())
