"""Task APIs over HTTP as task sources, as their profiles say: tasks from a list, a request for every outcome.

A list gives no ownership, so every listed task may be processed, except those that this source excludes:
tasks acknowledged after the list was requested, and tasks released a moment ago. Nothing else excludes a task: one that
an operator sets to pending runs again. The same applies when a candidate of an earlier list starts.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import ClassVar, Self
from urllib.parse import quote

import httpx2

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Check, Finding, Remote, warning
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
    explained,
)
from ai_task_processor.core.groups import Group
from ai_task_processor.core.pointer import keys, resolve
from ai_task_processor.core.ports import Admission, Backlog, Clock, SkipReason, SourceMemory, TaskSource, Want
from ai_task_processor.core.profiles import Profile, ProfileSource
from ai_task_processor.models.task import Claim, Completed, Failure, Outcome, Receipt, Task, TaskStatus
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.client import MAX_ANSWER_BYTES, HttpClient
from ai_task_processor.net.oauth import TokenSource
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.net.push import Push
from ai_task_processor.net.remarks import remark
from ai_task_processor.net.resilience import Gate
from ai_task_processor.net.services import Services
from ai_task_processor.ops import tracing
from ai_task_processor.ops.logs import get_logger, masked
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.rest.answers import Acknowledgements, Words, acknowledged, rejection
from ai_task_processor.sources.rest.bodies import Bodies
from ai_task_processor.sources.rest.checks import Everything, explain, list_pending, open_push
from ai_task_processor.sources.rest.listing import PendingList
from ai_task_processor.sources.rest.marks import Marks
from ai_task_processor.sources.rest.page import Page
from ai_task_processor.sources.rest.paged import PagedList
from ai_task_processor.sources.rest.profile import RestProfile
from ai_task_processor.sources.rest.read_ahead import ReadAhead
from ai_task_processor.sources.rest.report_check import report_nothing
from ai_task_processor.sources.rest.settings import ApiSettings, SecretSettings
from ai_task_processor.sources.rest.wire import ANY_ID, Invalid, Records

#: characters of an id in a path: longer request lines are refused by servers (RFC 9112 §3 asks for 8,000 octets)
MAX_ID = 4096
#: the token endpoint in metrics
TOKEN_ROUTE = ("/oauth2/token", "POST")
#: the token of a receipt whose result may be followed by another task
FOLLOWED = "followed"
#: a task that is taken according to the API is skipped for this long, seconds
TAKEN_S = 60.0
_JSON = {"Content-Type": "application/json"}
_POLL_OUTCOMES: tuple[tuple[type[RemoteError], str], ...] = (
    (Unauthorized, "auth_error"),
    (Throttled, "throttled"),
    (InvalidAnswer, "invalid"),
    (Transient, "server_error"),
    (Misconfigured, "client_error"),
)

log = get_logger(__name__)


class RestSource(ProfileSource, TaskSource):
    """``ports.TaskSource`` over such an API. Answers to ``polling`` are unbounded, to ``delivering`` bounded.

    With ``memory``, tasks are marked as the profile's ``claim`` says while they run; the marks are persisted there.
    """

    name = "rest"
    claims = "none"
    profile_type: ClassVar = RestProfile
    profile: ClassVar[RestProfile]
    #: endpoints and methods, for metrics
    routes: ClassVar[Sequence[tuple[str, str]]] = ()

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
        push: Callable[[Callable[[bytes | None], None]], Push] | None = None,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        profile = self.profile
        # Two requests, each with a token and once again after a 401: their own time-outs come first.
        self.report_within_s = 8 * settings.request_timeout_s
        self._remote = Remote("task API", "API_BASE_URL", settings.base_url)
        self._base = str(httpx2.URL(settings.base_url + "/")).rstrip("/")
        self._bodies = Bodies(profile.report)
        self._words = Words.of(profile)
        followed = profile.followed
        self._followed = None if followed is None else (keys(followed.pointer), followed.prefix)
        self._refusal = keys(profile.report.refusal or "")
        self._ahead = ReadAhead(settings.read_ahead_bytes, settings.read_ahead_s, clock.monotonic)
        metrics.read_ahead(lambda: len(self._ahead))
        listing = PendingList if profile.listing.streamed else PagedList
        self._list = listing(settings, profile, polling, self, ahead=self._ahead, metrics=metrics)
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
        #: tasks whose last report had no clear answer
        self._unclear: set[str] = set()
        #: why the API refuses all reports until an operator acts; None when it accepts them
        self.report_problem: str | None = None
        self._warned = False
        self._called = False
        self._pause: asyncio.Task[None] | None = None
        self._push = None if push is None else push(self._pushed)
        self._marks: Marks | None = None

    @classmethod
    def of(cls, name: str, profile: Profile) -> type[Self]:
        made = super().of(name, profile)
        listing, report, reread = made.profile.listing, made.profile.report, made.profile.report.reread
        routes = [(listing.path, "GET"), (report.path, report.method), *([(reread, "GET")] if reread else [])]
        claim = made.profile.claim
        if claim is not None:
            made.claims = "exclusive" if claim.exclusive else "none" if claim.optional else "advisory"
            routes.append((claim.path or report.path, claim.method or report.method))
        made.routes = [*dict.fromkeys(routes), *([TOKEN_ROUTE] if made.profile.auth == "oauth2" else [])]
        return made

    @classmethod
    def groups(cls, profile: RestProfile) -> Sequence[type[Group]]:
        signed: Sequence[type[Group]] = (AuthSettings,) if profile.auth == "oauth2" else ()
        return (ApiSettings, *signed, *((SecretSettings,) if profile.has_secret else ()))

    @classmethod
    def reported(cls, outcome: Outcome) -> tuple[Outcome, bytes]:
        """What is reported for an outcome, and the body of the report, for people."""
        return Bodies(cls.profile.report).reported(outcome)

    @classmethod
    def task_of(cls, record: object) -> Task:
        """The task of a listed record, whatever its id and state. Raises ``ValueError`` with the field."""
        found = Records(cls.profile, ANY_ID).task(record, any_state=True)
        if isinstance(found, Invalid):
            raise ValueError(found.reason)
        return found

    def sends(self, task_id: str, outcome: Outcome | None) -> tuple[str, bytes] | None:
        claim, method, path = self.profile.claim, self.profile.report.method, self.profile.report.path
        if outcome is not None:
            body = self._bodies.of(outcome)
        elif claim is not None and self._memory is not None:
            method, path, body = claim.method or method, claim.path or path, codec.line(claim.mark)
        else:
            return None
        return f"{method} {task_url(self._base, path, task_id)}", body

    @classmethod
    def build(cls, services: Services) -> Self:
        api, network, profile = services.settings[ApiSettings], services.settings, cls.profile
        tokens = None if profile.auth == "none" else TokenSource.build(services, within_s=api.request_timeout_s)
        streamed = profile.listing.streamed
        polling = services.client(
            api.base_url, 2, tokens=tokens, max_answer_bytes=None if streamed else MAX_ANSWER_BYTES
        )
        delivering = services.client(api.base_url, network.delivery.concurrency, tokens=tokens)
        if profile.headers:
            polling.always = delivering.always = partial(cls._headers, services)
        return cls(
            api,
            polling=polling,
            delivering=delivering,
            poll_gate=services.gate("api_poll"),
            delivery_gate=services.gate("api_delivery"),
            tokens=tokens,
            memory=services.memory if cls._marks_tasks(api) else None,
            push=None if profile.push is None else partial(cls._connection, services, tokens),
            clock=services.clock,
            metrics=services.metrics,
        )

    @classmethod
    def _connection(cls, services: Services, tokens: TokenSource | None, woken: Callable[[bytes | None], None]) -> Push:
        base, part = services.settings[ApiSettings].base_url, cls.profile.push
        assert part is not None  # noqa: S101 - the caller has looked
        client = services.client(base, 1, tokens=tokens)
        client.always = partial(cls._headers, services)
        return Push(client, base + part.path, woken, clock=services.clock, rng=services.rng, metrics=services.metrics)

    @classmethod
    def _marks_tasks(cls, api: ApiSettings) -> bool:
        claim = cls.profile.claim
        return claim is not None and (api.mark_in_progress or not claim.optional)

    @classmethod
    def _headers(cls, services: Services) -> Mapping[str, str]:
        """The profile's, with the secret as it was read last."""
        headers = cls.profile.headers
        if not cls.profile.has_secret:
            return headers
        secret = services.secrets[SecretSettings].secret.get_secret_value()
        return {name: text.replace("{secret}", secret) for name, text in headers.items()}

    async def run(self, ready: asyncio.Event) -> None:
        """Maintain the marks and the push connection until cancelled, then reset the marks of unfinished tasks."""
        ready.set()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._mark_until_cancelled(), name="source-marks")
                if self._push is not None:
                    group.create_task(self._push.run(), name="source-push")
        finally:
            if self._marks is not None:
                await self._marks.tend(leaving=True)
            for client in self._clients:
                await client.aclose()

    async def _mark_until_cancelled(self) -> None:
        while self._marks is None:
            await self._clock.sleep(1.0)
        await self._marks.run()

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
        tokens = {} if self._tokens is None else {"token": self._tokens.status()}
        return tokens if self._push is None else {**tokens, "push": self._push.status()}

    def remotes(self) -> Sequence[Remote]:
        return (self._remote,) if self._tokens is None else (self._remote, self._tokens.remote)

    def checks(self) -> Sequence[Check]:
        token = () if self._tokens is None else (self._tokens.check(),)
        work = partial(list_pending, self._reader(Everything()), self._remote)
        listed = Check("pending list", work, self._remote.setting, (self._remote, *token))
        reports = partial(report_nothing, self.profile, self._exchange, self._remote)
        found = [*token, listed, Check("report", reports, self._remote.setting, (listed,), writes=True)]
        if self._push is None:
            return found
        opens, needs = partial(open_push, self._push), (self._remote, *token)
        return (*found, Check("push", opens, self._remote.setting, needs, late=warning))

    def _reader(self, admission: Admission) -> PendingList:
        listing = PendingList if self.profile.listing.streamed else PagedList
        return listing(self._settings, self.profile, self._clients[0], admission)

    def explain(self, problem: Problem) -> Finding | None:
        return explain(problem, granted=self._tokens is not None and self._tokens.held)

    async def claim(self, want: Want) -> Sequence[Claim]:
        """Candidates of the last list while there are any; a new list only when none of them may start."""
        if want.limit <= 0:
            return ()
        self._admission = want.admission
        if self._memory is not None and self._marks is None:
            self._marks = self._new_marks(self._memory, want.admission)
            await self._marks.recover()
        tasks = await self._list.take(want.limit) or await self._poll(want.limit)
        if self._marks is not None and tasks:
            tasks = await self._mark(tasks, self._marks)
        return [Claim(task, self._receipt(task)) for task in tasks.values()]

    def _new_marks(self, memory: SourceMemory, admission: Admission) -> Marks:
        claim, late_s = self.profile.claim, self._settings.request_timeout_s
        within_s = inf if claim is None or claim.within_s is None else claim.within_s
        return Marks(
            self._patch_state,
            memory,
            admission,
            late_s=late_s,
            within_s=within_s,
            clock=self._clock,
            exclusive=self.claims == "exclusive",
        )

    def _receipt(self, task: Task) -> Receipt:
        if self._followed is None:
            return Receipt(self.name, task.id)
        path, prefix = self._followed
        value = resolve(task.raw, path)
        return Receipt(self.name, task.id, FOLLOWED if isinstance(value, str) and value.startswith(prefix) else "")

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
        claim, part, words = self.profile.claim, self.profile.report, self.profile.states.words()
        method, path = part.method, part.path
        if state is TaskStatus.PENDING or state is TaskStatus.IN_PROGRESS:
            assert claim is not None  # noqa: S101 - without it there are no marks
            method, path = claim.method or method, claim.path or path
            body = codec.line(claim.mark if state is TaskStatus.IN_PROGRESS else claim.unmark)
        else:
            # A late mark may have overwritten a final state, which is repeated without its result.
            body = codec.line({keys(self.profile.fields.state or "/state")[-1]: words[state]})
        read = part.reread if part.check_first and state is not TaskStatus.IN_PROGRESS else None

        async def change() -> None:
            if read is None or self._state(await self._document(read, task_id)) == words[TaskStatus.IN_PROGRESS]:
                await self._patch(task_id, state, body, method, path)

        await self._delivery_gate.call(change, about=task_id)

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
        self._wake("http")

    def _wake(self, origin: str) -> None:
        self._metrics.woken(origin)
        self._ahead.doubt()
        self.resume()

    def _pushed(self, message: bytes | None) -> None:
        """A message, or a new connection: those before it were missed. Long ones, with results of others, are empty."""
        part = self.profile.push
        if message is not None and part is not None and part.state is not None:
            try:
                news = codec.loads(message)
            except ValueError:
                return
            if resolve(news, keys(part.state)) != self.profile.states.pending:
                if part.id is not None:
                    self._ahead.drop(str(resolve(news, keys(part.id))))
                return
        self._wake("websocket")

    def resume(self) -> None:
        self._called = True
        if self._pause is not None:
            self._pause.cancel()

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        """A strict API refuses unknown keys: then failures are reported without ``error`` from now on.

        An acknowledged result that may be followed by another task ends the wait for the next poll.
        """
        (reported, body), failed = self._bodies.reported(outcome), self._bodies.bare_failure
        state = TaskStatus.SUCCEEDED if isinstance(reported, Completed) else TaskStatus.FAILED
        bare = self._bare_failures and state is TaskStatus.FAILED and failed is not None
        try:
            await self._report(receipt, state, failed if bare and failed is not None else body)
        except Rejected as error:
            if bare or failed is None or state is TaskStatus.SUCCEEDED or error.status not in (400, 422):
                raise
            await self._report(receipt, state, failed)
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
        now, stale = self._clock.monotonic(), self._acknowledged_meanwhile
        if stale is None:
            stale = set()
        # Only for these: what admission lets start counts against limits.
        asked = [task for task in tasks if task.id not in stale and self._deferred.get(task.id, 0.0) <= now]
        found: Sequence[SkipReason | None] = [None] * len(asked)
        if self._admission is not None:
            found = await self._admission.refuse(asked)
        reasons = {task.id: reason for task, reason in zip(asked, found, strict=True)}
        return ["stale" if task.id in stale else reasons.get(task.id, "deferred") for task in tasks]

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
            self.report_problem = explained(error)
            raise
        self.report_problem = None
        self._ahead.drop(receipt.id)
        if self._acknowledged_meanwhile is not None:
            self._acknowledged_meanwhile.add(receipt.id)
        if self._marks is not None:
            await self._marks.acknowledged(receipt.id, state)

    async def _deliver(self, task_id: str, state: TaskStatus, body: bytes) -> None:
        """Report an outcome. Repetitions are bounded, because each one may run a callback of the upstream again."""
        part = self.profile.report
        read = part.reread if part.check_first or task_id in self._unclear else None
        if read is not None and await self._is_reported(read, task_id, state, body):
            self._unclear.discard(task_id)
            return
        try:
            await self._patch(task_id, state, body, part.method, part.path)
        except Ambiguous as error:
            self._unclear.add(task_id)
            if part.reread is None or not await self._is_reported(part.reread, task_id, state, body):
                if isinstance(error, Unacknowledged):
                    raise self._acknowledgements.missing(task_id, error) from error
                raise
        self._unclear.discard(task_id)
        self._acknowledgements.arrived(task_id)

    async def _is_reported(self, path: str, task_id: str, state: TaskStatus, body: bytes) -> bool:
        """Whether the API has this outcome already. Raises ``Rejected`` (``lost``) when others have ended the task."""
        document, words = await self._document(path, task_id), self.profile.states.words()
        found = self._state(document)
        if found == words[state] and _has(document, codec.loads(body)):
            return True
        if found not in (words[TaskStatus.PENDING], words.get(TaskStatus.IN_PROGRESS)):
            raise Rejected("lost")
        return False

    def _state(self, document: object) -> object:
        return resolve(document, keys(self.profile.fields.state or ""))

    async def _document(self, path: str, task_id: str) -> object:
        """The task as it is now. Raises ``Rejected`` (``gone``) when the API does not have it."""
        answer = await self._exchange("GET", path, task_id)
        if not answer.is_success:
            refusal = self._refused(answer, b"")
            raise Rejected("gone", answer.status_code) if isinstance(refusal, Rejected) else refusal
        try:
            return codec.loads(answer.content)
        except ValueError as error:
            raise InvalidAnswer("the task API did not answer JSON") from error

    async def _patch(self, task_id: str, state: TaskStatus, body: bytes, method: str, path: str) -> None:
        try:
            answer = await self._exchange(method, path, task_id, body)
        except InvalidAnswer as error:
            what = "return the updated document, small and uncompressed, or nothing"
            raise Unacknowledged(f"answers to results cannot be read ({error}): {what}") from error
        if not answer.is_success:
            raise self._refused(answer, body)
        try:
            named = acknowledged(answer.status_code, answer.content, task_id, state, self._words)
        except Unacknowledged as error:
            error.detail = error.detail or remark(answer.content, body, masked)
            raise
        if not named and not self._warned:
            self._warned = True
            log.warning("delivery.unverified", reason="the task API answers results without id and state")

    async def _exchange(self, method: str, path: str, task_id: str, body: bytes | None = None) -> Answer:
        started_at, status, url = time.perf_counter(), None, task_url(self._base, path, task_id)
        try:
            answer = await self._client.exchange(
                method,
                url,
                content=body,
                headers={**(_JSON if body is not None else {}), **tracing.headers()},
                timeout_s=self._settings.request_timeout_s,
            )
            status = answer.status_code
        finally:
            took_s = time.perf_counter() - started_at
            self._metrics.api_request(endpoint=path, method=method, status_code=status, duration_s=took_s)
        return answer

    def _refused(self, answer: Answer, sent: bytes) -> Rejected | RemoteError:
        """The error for a status that is no success, with the API's message as ``detail``."""
        refusal = rejection(answer.status_code, answer.content, self._refusal) or status_error(answer, "the task API")
        if answer.is_server_error and not isinstance(refusal, Throttled):
            # The state may have been saved before the upstream's callback failed.
            refusal = Ambiguous(str(refusal), status=answer.status_code)
        refusal.detail = remark(answer.content, sent, masked)
        return refusal


def _has(document: object, sent: object) -> bool:
    """Whether a task has everything that was sent; keys that the API does not show do not count."""
    if not isinstance(document, Mapping) or not isinstance(sent, Mapping):
        return document == sent
    return all(document[key] == value or value == "" for key, value in sent.items() if key in document)


def task_url(base: str, path: str, task_id: str) -> str:
    """The URL of a task, whatever its id: ids come from outside, and the request has credentials.

    Raises ``Rejected`` for an id that no path can hold.
    """
    quoted = quote(task_id, safe="", errors="surrogatepass")
    if quoted in ("", ".", "..") or len(quoted) > MAX_ID:
        raise Rejected("refused", 0)
    return base + path.replace("{id}", quoted)
