"""The NestJS task API as a task source: claims out of the pending list, a PATCH for every outcome.

Whoever lists a task may process it (``in_progress`` has no owner there), so this source itself
keeps what must not start again: what was acknowledged after the list was asked for, and what was
given back a moment ago. Nothing else suppresses a listing: a task that an operator puts back to
pending runs again. All of this is asked again when a candidate of an earlier list starts.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from urllib.parse import quote

import httpx2

from ai_task_processor.core import codec
from ai_task_processor.core.errors import (
    Ambiguous,
    CircuitOpen,
    InvalidAnswer,
    Misconfigured,
    NoToken,
    Rejected,
    RemoteError,
    Throttled,
    Transient,
    Unacknowledged,
    Unauthorized,
)
from ai_task_processor.core.ports import Admission, Clock, Journal, SkipReason
from ai_task_processor.core.settings import ApiSettings
from ai_task_processor.models.task import Claim, Failure, Receipt, Task, TaskResult, TaskStatus
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.client import HttpClient
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.logs import get_logger, masked
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.nestjs.answers import Acknowledgements, acknowledged, rejection
from ai_task_processor.sources.nestjs.listing import PendingList
from ai_task_processor.sources.nestjs.marks import NestMarks
from ai_task_processor.sources.nestjs.page import Page
from ai_task_processor.sources.nestjs.read_ahead import ReadAhead
from ai_task_processor.sources.nestjs.remarks import remark

TASKS = "/api/ai-tasks/"
#: characters of an id in a path: longer request lines are refused by servers (RFC 9112 §3 asks for 8,000 octets)
MAX_ID = 4096
_POLL_OUTCOMES: tuple[tuple[type[RemoteError], str], ...] = (
    (Unauthorized, "auth_error"),
    (Throttled, "throttled"),
    (InvalidAnswer, "invalid"),
    (Transient, "server_error"),
    (Misconfigured, "client_error"),
)

log = get_logger(__name__)


class NestTaskSource:
    """``ports.TaskSource`` over the NestJS API; ``polling`` may answer without a bound, ``delivering`` not."""

    def __init__(
        self,
        settings: ApiSettings,
        *,
        polling: HttpClient,
        delivering: HttpClient,
        poll_gate: Gate,
        delivery_gate: Gate,
        admission: Admission,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._tasks = str(httpx2.URL(settings.base_url + TASKS))
        self._ahead = ReadAhead(settings.read_ahead_bytes, settings.read_ahead_s, clock.monotonic)
        metrics.read_ahead(lambda: len(self._ahead))
        self._list = PendingList(settings, polling, self._skip, busy=self._busy, ahead=self._ahead, metrics=metrics)
        self._client = delivering
        self._poll_gate = poll_gate
        self._delivery_gate = delivery_gate
        self._admission = admission
        self._clock = clock
        self._metrics = metrics
        self._acknowledged_meanwhile: set[str] | None = None
        self._deferred: dict[str, float] = {}
        self._bare_failures = False
        self._acknowledgements = Acknowledgements()
        #: why reports are not taken until somebody changes something; None when they are
        self.report_problem: str | None = None
        self._warned = False
        self._called = False
        self._pause: asyncio.Task[None] | None = None
        self.marks: NestMarks | None = None

    @property
    def last_page(self) -> Page:
        """What the last good poll saw, for ``/status``."""
        return self._list.last_page

    @property
    def candidates(self) -> int:
        """How many tasks of that poll wait here for free slots."""
        return len(self._ahead)

    async def claim(self, limit: int) -> Sequence[Claim]:
        """Candidates of the last list while there are any; a new list only when none of them may start."""
        if limit <= 0:
            return ()
        tasks = await self._list.take(limit) or await self._poll(limit)
        return [Claim(task, Receipt(task.id)) for task in tasks.values()]

    async def _poll(self, limit: int) -> Mapping[str, Task]:
        started_at = time.perf_counter()
        self._acknowledged_meanwhile = set()
        try:
            page = await self._poll_gate.call(lambda: self._list.read(limit))
        except CircuitOpen:
            raise
        except RemoteError as error:
            outcome = next((name for kind, name in _POLL_OUTCOMES if isinstance(error, kind)), "network_error")
            self._metrics.poll_finished(outcome, duration_s=time.perf_counter() - started_at, bytes_read=0)
            raise
        finally:
            self._acknowledged_meanwhile = None
        self._note(page, time.perf_counter() - started_at)
        return page.tasks

    async def wait(self, timeout_s: float) -> bool:
        if not self._called:
            async with asyncio.TaskGroup() as group:
                self._pause = group.create_task(self._clock.sleep(timeout_s), name="source-pause")
        called, self._called = self._called, False
        return called

    def wake(self) -> None:
        """Somebody says that there may be work: end the wait under way, or the next one.

        The door is here and not at the scheduler, so that a push has one way in whatever it comes from: the
        scheduler pauses by asking its source to wait, and alone decides when it asks and what may not be cut short.
        """
        self._metrics.woken()
        self._ahead.doubt()
        self.end_wait()

    def end_wait(self) -> None:
        """Something has changed here that lets tasks start: end the wait under way, or the next one."""
        self._called = True
        if self._pause is not None:
            self._pause.cancel()

    async def complete(self, receipt: Receipt, result: TaskResult) -> None:
        await self._report(receipt, TaskStatus.SUCCEEDED, codec.success_body(result))

    async def fail(self, receipt: Receipt, failure: Failure) -> None:
        """A strict API refuses keys it does not know: then the failure is told without its reason, from now on."""
        if not self._bare_failures:
            try:
                await self._report(receipt, TaskStatus.FAILED, codec.failure_body(failure))
            except Rejected as error:
                if error.status not in (400, 422):
                    raise
            else:
                return
        await self._report(receipt, TaskStatus.FAILED, codec.failure_body(None))
        self._bare_failures = True

    async def release(self, receipt: Receipt, delay_s: float) -> None:
        """The task is still pending upstream: only this process leaves it alone until the delay is over."""
        self._deferred[receipt.id] = self._clock.monotonic() + delay_s

    async def check(self) -> None:
        await self._list.answers()

    def _skip(self, task: Task) -> SkipReason | None:
        if self._acknowledged_meanwhile is not None and task.id in self._acknowledged_meanwhile:
            return "stale"
        if self._deferred.get(task.id, 0.0) > self._clock.monotonic():
            return "deferred"
        return self._admission.refuse(task)

    def _busy(self, task_id: str) -> SkipReason | None:
        deferred = self._deferred.get(task_id, 0.0) > self._clock.monotonic()
        return "deferred" if deferred else self._admission.busy(task_id)

    def _note(self, page: Page, took_s: float) -> None:
        self._metrics.poll_finished("tasks" if page.tasks else "empty", duration_s=took_s, bytes_read=page.bytes_read)
        now = self._clock.monotonic()
        self._deferred = {task_id: due for task_id, due in self._deferred.items() if due > now}
        age_s = None if page.oldest is None else max(0.0, self._clock.now().timestamp() - page.oldest)
        self._metrics.pending_seen(page.seen, oldest_age_s=age_s, complete=page.complete)
        for reason, count in page.skipped.items():
            self._metrics.task_skipped(reason, count)

    def mark_with(self, journal: Journal) -> NestMarks:
        """Say ``in_progress`` from now on; ``run`` of what is answered must run beside."""

        async def patch(task_id: str, state: TaskStatus) -> None:
            body = codec.line({"state": state.value})
            await self._delivery_gate.call(lambda: self._patch(task_id, state, body), about=task_id)

        self.marks = NestMarks(patch, journal, late_s=self._settings.request_timeout_s, clock=self._clock)
        return self.marks

    async def _report(self, receipt: Receipt, state: TaskStatus, body: bytes) -> None:
        try:
            await self._delivery_gate.call(lambda: self._told(receipt.id, state, body), about=receipt.id)
        except Rejected as error:
            if error.outcome in ("gone", "conflict"):
                self._ahead.drop(receipt.id)
                self._ahead.doubt()
            raise
        except NoToken:
            raise
        except (Misconfigured, Unauthorized) as error:
            self.report_problem = str(error)
            raise
        self.report_problem = None
        self._ahead.drop(receipt.id)
        if self._acknowledged_meanwhile is not None:
            self._acknowledged_meanwhile.add(receipt.id)
        if self.marks is not None:
            self.marks.acknowledged(receipt.id, state)

    async def _told(self, task_id: str, state: TaskStatus, body: bytes) -> None:
        """Report an outcome. A repeated report runs the upstream's callback again, so there must be an end of them."""
        try:
            await self._patch(task_id, state, body)
        except Unacknowledged as error:
            raise self._acknowledgements.missing(task_id, error) from error
        self._acknowledgements.arrived(task_id)

    async def _patch(self, task_id: str, state: TaskStatus, body: bytes) -> None:
        started_at, status, url = time.perf_counter(), None, task_url(self._tasks, task_id)
        try:
            answer = await self._client.exchange(
                "PATCH",
                url,
                content=body,
                headers={"Content-Type": "application/json"},
                timeout_s=self._settings.request_timeout_s,
            )
            status = answer.status_code
        except InvalidAnswer as error:
            what = "return the updated document, small and uncompressed, or nothing"
            raise Unacknowledged(f"answers to results cannot be read ({error}): {what}") from error
        finally:
            took_s = time.perf_counter() - started_at
            self._metrics.api_request(endpoint=TASKS + "{id}", method="PATCH", status_code=status, duration_s=took_s)
        if not answer.is_success:
            raise _refusal(answer, body)
        if not acknowledged(answer.status_code, answer.content, task_id, state) and not self._warned:
            self._warned = True
            log.warning("delivery.unverified", reason="the task API answers results without id and state")


def _refusal(answer: Answer, sent: bytes) -> Rejected | RemoteError:
    """What a status that is no success says, with the API's own words."""
    refusal = rejection(answer.status_code, answer.content) or status_error(answer, "the task API")
    if answer.is_server_error and not isinstance(refusal, Throttled):
        # The state may have been saved before the upstream's callback failed.
        refusal = Ambiguous(str(refusal), status=answer.status_code)
    refusal.detail = remark(answer.content, sent, masked)
    return refusal


def task_url(tasks: str, task_id: str) -> str:
    """The task's own path below ``tasks``, and no other: ids come from outside, and our bearer goes with the request.

    Raises ``Rejected`` for an id that no path can hold.
    """
    quoted = quote(task_id, safe="", errors="surrogatepass")
    if quoted in ("", ".", "..") or len(quoted) > MAX_ID:
        raise Rejected("refused", 0)
    return tasks + quoted
