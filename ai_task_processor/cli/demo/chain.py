"""The verification requests of the demo: five tasks each, one after the other, then a person takes over (triage)."""

from typing import Final

from ai_task_processor.cli.demo.words import ChainFigures
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.verifications import IN_TRIAGE, Verification

REQUESTS: Final = 40
TASKS_EACH: Final = 5


def chain_figures(sandbox: Sandbox) -> ChainFigures:
    requests, stats = sandbox.verifications.requests.values(), sandbox.stats
    tasks = [sandbox.tasks[task_id] for request in requests for task_id in request.tasks.values()]
    return ChainFigures(
        requests=len(requests),
        triaged=sum(request.status == IN_TRIAGE for request in requests),
        tasks=len(tasks),
        settled=sum(task.acknowledged_at is not None for task in tasks),
        repeated=sum(max(0, task.patches - 1) for task in tasks),
        chat_calls=stats.chat_calls,
        chat_tokens=stats.chat_tokens,
    )


def broken_chain(sandbox: Sandbox) -> list[str]:
    """How many requests are right, and a sentence for each that is not; empty when all are."""
    requests = sandbox.verifications.requests.values()
    problems = [problem for request in requests if (problem := _wrong(request, sandbox)) is not None]
    if not problems:
        return []
    right = len(requests) - len(problems)
    return [f"{right} of {len(requests)} verification requests reached triage with the right answers", *problems]


def _wrong(request: Verification, sandbox: Sandbox) -> str | None:
    for name, task_id in request.tasks.items():
        task = sandbox.tasks[task_id]
        if task.state is not TaskStatus.SUCCEEDED:
            return f"{request.id} has no {name}: task {task.id} is {task.state} ({task.code})"
        if task.patches != 1:
            return f"task {task.id} ({name} of {request.id}) was reported {task.patches} times, not 1"
    if wrong := request.wrong():
        return f"{request.id} ({request.status}) has no right {', '.join(wrong)}"
    return None


def told(sandbox: Sandbox) -> list[str]:
    """What happened, in sentences."""
    now, wrong = chain_figures(sandbox), [request.wrong() for request in sandbox.verifications.requests.values()]
    severe, right = sum("severity" not in each for each in wrong), sum(not each for each in wrong)
    asked = sandbox.stats.wikidata_requests
    return [
        f"{now.triaged} of {now.requests} verification requests reached triage, by {TASKS_EACH} tasks each.",
        f"{severe} have the right severity; {right} also the right people, topics and impact area.",
        f"That took {now.chat_calls} chat calls, {now.chat_tokens} tokens and {asked} requests to Wikidata.",
    ]
