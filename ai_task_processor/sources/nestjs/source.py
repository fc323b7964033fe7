"""The NestJS task API as a task source: claims from the pending list, a PATCH for every outcome.

``in_progress`` has no owner there, so every listed task may be processed, except those that this source excludes:
tasks acknowledged after the list was requested, and tasks released a moment ago. Nothing else excludes a task: one that
an operator sets to pending runs again. The same applies when a candidate of an earlier list starts.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import ClassVar, Self
from urllib.parse import quote

import httpx2

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Check, Finding, Remote
from ai_task_processor.core.component import Problem
from ai_task_processor.core.errors import (
    Ambiguous,
    CircuitOpen,
    InvalidAnswer,
    Misconfigured,
    NoToken,
    OutboxUnwritable,
    Rejected,
    RemoteError,
    Throttled,
    Transient,
    Unacknowledged,
    Unauthorized,
)
from ai_task_processor.core.ports import Admission, Backlog, Clock, SkipReason, SourceMemory, TaskSource, Want
from ai_task_processor.models.task import Claim, Completed, Failure, Outcome, Receipt, Task, TaskStatus
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.client import HttpClient
from ai_task_processor.net.oauth import TokenSource
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.net.resilience import Gate
from ai_task_processor.net.services import Services
from ai_task_processor.ops.logs import get_logger, masked
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.nestjs.answers import Acknowledgements, acknowledged, rejection
from ai_task_processor.sources.nestjs.bodies import BARE_FAILURE, body_of
from ai_task_processor.sources.nestjs.checks import explain, list_pending
from ai_task_processor.sources.nestjs.listing import PendingList
from ai_task_processor.sources.nestjs.marks import Marks
from ai_task_processor.sources.nestjs.page import Page
from ai_task_processor.sources.nestjs.read_ahead import ReadAhead
from ai_task_processor.sources.nestjs.remarks import remark
from ai_task_processor.sources.nestjs.settings import ApiSettings

TASKS = "/api/ai-tasks/"
#: characters of an id in a path: longer request lines are refused by servers (RFC 9112 §3 asks for 8,000 octets)
MAX_ID = 4096
#: callbacks of a chain: the API creates the next task of the same request while it acknowledges a result
CHAIN_ROUTE = "verification_update_"
#: the token of a receipt whose result may be followed by another task
FOLLOWED = "followed"
#: a task that is taken according to the API is skipped for this long, seconds
TAKEN_S = 60.0
_POLL_OUTCOMES: tuple[tuple[type[RemoteError], str], ...] = (
    (Unauthorized, "auth_error"),
    (Throttled, "throttled"),
    (InvalidAnswer, "invalid"),
    (Transient, "server_error"),
    (Misconfigured, "client_error"),
)

log = get_logger(__name__)


class NestTaskSource(TaskSource):
    """``ports.TaskSource`` over the NestJS API. Answers to ``polling`` are unbounded, to ``delivering`` bounded.

    With ``memory``, tasks are marked ``in_progress`` while they run, and the marks are persisted there.
    """

    name = "aletheia"
    claims = "none"

    settings_groups: ClassVar = (ApiSettings, AuthSettings)

    def __init__(
        self,
        settings: ApiSettings,
        *,
        polling: HttpClient,
        delivering: HttpClient,
        poll_gate: Gate,
        delivery_gate: Gate,
        tokens: TokenSource | None = None,
        memory: SourceMemory | None = None,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        # Two requests, each with a token and once again after a 401: their own time-outs come first.
        self.report_within_s = 8 * settings.request_timeout_s
        self._remote = Remote("task API", "API_BASE_URL", settings.base_url)
        self._tasks = str(httpx2.URL(settings.base_url + TASKS))
        self._ahead = ReadAhead(settings.read_ahead_bytes, settings.read_ahead_s, clock.monotonic)
        metrics.read_ahead(lambda: len(self._ahead))
        self._list = PendingList(settings, polling, self, ahead=self._ahead, metrics=metrics)
        self._client = delivering
        self._clients = [polling, delivering, *([tokens.client] if tokens else [])]
        self._tokens = tokens
        self._poll_gate = poll_gate
        self._delivery_gate = delivery_gate
        self._admission: Admission | None = None
        self._memory = memory
        self._clock = clock
        self._metrics = metrics
        self._acknowledged_meanwhile: set[str] | None = None
        self._deferred: dict[str, float] = {}
        self._bare_failures = False
        self._acknowledgements = Acknowledgements()
        #: why the API refuses all reports until an operator acts; None when it accepts them
        self.report_problem: str | None = None
        self._warned = False
        self._called = False
        self._pause: asyncio.Task[None] | None = None
        self._marks: Marks | None = None

    @classmethod
    def build(cls, services: Services) -> Self:
        api, network = services.settings[ApiSettings], services.settings
        tokens = TokenSource.build(services, within_s=api.request_timeout_s)
        return cls(
            api,
            polling=services.client(api.base_url, 2, tokens=tokens, max_answer_bytes=None),
            delivering=services.client(api.base_url, network.delivery.concurrency, tokens=tokens),
            poll_gate=services.gate("api_poll"),
            delivery_gate=services.gate("api_delivery"),
            tokens=tokens,
            memory=services.memory if api.mark_in_progress else None,
            clock=services.clock,
            metrics=services.metrics,
        )

    async def run(self, ready: asyncio.Event) -> None:
        """Maintain the marks until cancelled, then reset those of unfinished tasks."""
        ready.set()
        try:
            while self._marks is None:
                await self._clock.sleep(1.0)
            await self._marks.run()
        finally:
            if self._marks is not None:
                await self._marks.tend(leaving=True)
            for client in self._clients:
                await client.aclose()

    async def reload(self) -> None:
        """Request a token with the current secrets, and the list."""
        if self._tokens is not None:
            await self._tokens.look_again()
            if not self._tokens.held:
                with suppress(RemoteError):
                    await self._tokens.token()
        self.wake()

    @property
    def backlog(self) -> Backlog:
        page = self._list.last_page
        return Backlog(page.seen, page.complete, len(self._ahead), page.skipped)

    def problems(self) -> Sequence[Problem]:
        found = []
        if self._tokens is not None and self._tokens.problem is not None:
            found.append(Problem("token_unavailable", self._tokens.problem))
        if self.report_problem is not None:
            found.append(Problem("results_refused", self.report_problem))
        return found

    def status(self) -> Mapping[str, object]:
        return {} if self._tokens is None else {"token": self._tokens.status()}

    def remotes(self) -> Sequence[Remote]:
        return (self._remote,) if self._tokens is None else (self._remote, self._tokens.remote)

    def checks(self) -> Sequence[Check]:
        token = () if self._tokens is None else (self._tokens.check(),)
        work = partial(list_pending, self._settings, self._clients[0], self._remote)
        return (*token, Check("pending list", work, self._remote.setting, (self._remote, *token)))

    def explain(self, problem: Problem) -> Finding | None:
        return explain(problem, granted=self._tokens is not None and self._tokens.held)

    async def claim(self, want: Want) -> Sequence[Claim]:
        """Candidates of the last list while there are any; a new list only when none of them may start."""
        if want.limit <= 0:
            return ()
        self._admission = want.admission
        if self._memory is not None and self._marks is None:
            late_s = self._settings.request_timeout_s
            self._marks = Marks(self._patch_state, self._memory, want.admission, late_s=late_s, clock=self._clock)
        tasks = await self._list.take(want.limit) or await self._poll(want.limit)
        if self._marks is not None and tasks:
            tasks = await self._mark(tasks, self._marks)
        return [Claim(task, self._receipt(task)) for task in tasks.values()]

    def _receipt(self, task: Task) -> Receipt:
        route = task.raw.get("callbackRoute")
        followed = isinstance(route, str) and route.startswith(CHAIN_ROUTE)
        return Receipt(self.name, task.id, FOLLOWED if followed else "")

    async def _mark(self, tasks: Mapping[str, Task], marks: Marks) -> Mapping[str, Task]:
        """Mark these tasks and return those that are not taken. Taken ones are skipped for ``TAKEN_S``."""
        try:
            ours = await marks.begin(list(tasks))
        except OutboxUnwritable:
            return {}  # the engine waits for the disk
        for task_id, mine in zip(tasks, ours, strict=True):
            if not mine:
                self._defer(task_id, TAKEN_S)
        return {task_id: task for (task_id, task), mine in zip(tasks.items(), ours, strict=True) if mine}

    async def _patch_state(self, task_id: str, state: TaskStatus) -> None:
        body = codec.line({"state": state.value})
        await self._delivery_gate.call(lambda: self._patch(task_id, state, body), about=task_id)

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
        """Every push calls this: it ends ``wait``, in which the scheduler sleeps between polls. The scheduler decides
        when to poll next, and which pauses a push does not shorten.
        """
        self._metrics.woken()
        self._ahead.doubt()
        self.resume()

    def resume(self) -> None:
        self._called = True
        if self._pause is not None:
            self._pause.cancel()

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        """A strict API refuses unknown keys: then failures are reported without ``error`` from now on.

        An acknowledged result that may be followed by another task ends the wait for the next poll.
        """
        state = TaskStatus.SUCCEEDED if isinstance(outcome, Completed) else TaskStatus.FAILED
        bare = self._bare_failures and state is TaskStatus.FAILED
        try:
            await self._report(receipt, state, BARE_FAILURE if bare else body_of(outcome))
        except Rejected as error:
            if bare or state is TaskStatus.SUCCEEDED or error.status not in (400, 422):
                raise
            await self._report(receipt, state, BARE_FAILURE)
            self._bare_failures = True
        if receipt.token == FOLLOWED and state is TaskStatus.SUCCEEDED:
            self.resume()

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:  # noqa: ARG002 - the API has no place for a failure that is not final
        """The task is still pending upstream: this process skips it until the delay is over."""
        self._defer(receipt.id, delay_s)
        if self._marks is not None:
            await self._marks.withdraw(receipt.id)

    def _defer(self, task_id: str, delay_s: float) -> None:
        self._deferred[task_id] = self._clock.monotonic() + delay_s

    async def check(self) -> None:
        """Read the first bytes of the list. Raises ``RemoteError``."""
        await self._list.answers()

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        """``Admission.busy``, and tasks released a moment ago."""
        now = self._clock.monotonic()
        found: dict[str, SkipReason] = {id_: "deferred" for id_ in task_ids if self._deferred.get(id_, 0.0) > now}
        if self._admission is not None:
            found = {**await self._admission.busy(task_ids), **found}
        return found

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        """``Admission.refuse``, and tasks released a moment ago, or acknowledged since the list was requested."""
        now, stale = self._clock.monotonic(), self._acknowledged_meanwhile or ()
        reasons = [None] * len(tasks) if self._admission is None else await self._admission.refuse(tasks)
        return [
            "stale" if task.id in stale else "deferred" if self._deferred.get(task.id, 0.0) > now else reason
            for task, reason in zip(tasks, reasons, strict=True)
        ]

    def _note(self, page: Page, took_s: float) -> None:
        self._metrics.poll_finished("tasks" if page.tasks else "empty", duration_s=took_s, bytes_read=page.bytes_read)
        now = self._clock.monotonic()
        self._deferred = {task_id: due for task_id, due in self._deferred.items() if due > now}
        age_s = None if page.oldest is None else max(0.0, self._clock.now().timestamp() - page.oldest)
        self._metrics.pending_seen(page.seen, oldest_age_s=age_s, complete=page.complete)
        for reason, count in page.skipped.items():
            self._metrics.task_skipped(reason, count)

    async def _report(self, receipt: Receipt, state: TaskStatus, body: bytes) -> None:
        try:
            await self._delivery_gate.call(lambda: self._deliver(receipt.id, state, body), about=receipt.id)
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
        if self._marks is not None:
            await self._marks.acknowledged(receipt.id, state)

    async def _deliver(self, task_id: str, state: TaskStatus, body: bytes) -> None:
        """Report an outcome. Repetitions are bounded, because each one runs the upstream's callback again."""
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
    """The error for a status that is no success, with the API's message as ``detail``."""
    refusal = rejection(answer.status_code, answer.content) or status_error(answer, "the task API")
    if answer.is_server_error and not isinstance(refusal, Throttled):
        # The state may have been saved before the upstream's callback failed.
        refusal = Ambiguous(str(refusal), status=answer.status_code)
    refusal.detail = remark(answer.content, sent, masked)
    return refusal


def task_url(tasks: str, task_id: str) -> str:
    """The path of the task below ``tasks``, whatever its id: ids come from outside, and the request has a token.

    Raises ``Rejected`` for an id that no path can hold.
    """
    quoted = quote(task_id, safe="", errors="surrogatepass")
    if quoted in ("", ".", "..") or len(quoted) > MAX_ID:
        raise Rejected("refused", 0)
    return tasks + quoted
