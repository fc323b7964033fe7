"""The checks of ``doctor`` for the task API."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from ai_task_processor.core.checks import Finding, Listed, Remote, Stopwatch, halves, ok, refused, warning, wrong
from ai_task_processor.core.component import Problem
from ai_task_processor.core.errors import RemoteError, Unauthorized
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.models.task import Task
from ai_task_processor.net.push import Push
from ai_task_processor.sources.rest.listing import PendingList

#: tasks read from the head of the pending list
SAMPLE: Final = 200
REMEDIES: Final[Mapping[type[Exception], str]] = {
    Unauthorized: "the token is not for this API (OAUTH2_AUDIENCE), or permits too little (OAUTH2_SCOPE)"
}


class Everything:
    """An ``Admission`` that admits every task: the list is only read."""

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:  # noqa: ARG002 - the port's
        return {}

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        return [None] * len(tasks)


async def list_pending(listing: PendingList, remote: Remote) -> AsyncIterator[Finding | Listed]:
    """Can the list be read, and what is in it?"""
    watch = Stopwatch()
    try:
        page = await listing.read(SAMPLE)
    except RemoteError as error:
        yield refused(error, remote, REMEDIES)
        return
    unusable = [(each.task_id or "", each.reason) for each in page.invalid]
    yield Listed(list(page.tasks.values()), page.seen, page.complete, str(watch), unusable)
    if invalid := page.skipped["invalid"]:
        yield warning(f"{invalid} are records that cannot be used", "their id must match TASK_ID_PATTERN")


async def open_push(push: Push) -> AsyncIterator[Finding]:
    """Can the WebSocket be opened? Without it tasks are found all the same, only later."""
    watch = Stopwatch()
    try:
        await push.opens()
    except RemoteError as error:
        text, remedy = halves(str(error))
        yield warning(f"new tasks wait for the next poll: {text}", remedy or "look at proxies on the way")
    else:
        yield ok(f"the WebSocket opens ({watch})")


def explain(problem: Problem, *, granted: bool) -> Finding | None:
    """``Component.explain``. ``granted``: ``doctor`` was granted a token just now."""
    text = problem.message
    if problem.code == "token_unavailable" and granted and ("refuses the client" in text or "answered 401" in text):
        remedy = "send it SIGHUP to read secret files and .env again, or restart it"
        return wrong(f"it uses an older secret than this command ({text})", remedy)
    if problem.code == "results_refused":
        text, remedy = halves(text)
        return wrong(text, remedy or "see `ai-task-processor outbox list`, and its log")
    return None
