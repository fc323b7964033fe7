"""Task APIs over HTTP as task sources, as their profiles say: tasks from a list, a request for every outcome.

Which listed tasks may start: ``polls``. What is sent about a task: ``reports`` and ``task_requests``.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from math import inf
from typing import ClassVar, Self

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Check, Finding, Remote, warning
from ai_task_processor.core.component import Problem
from ai_task_processor.core.errors import (
    Misconfigured,
    NoToken,
    OutboxUnwritable,
    Rejected,
    RemoteError,
    Unauthorized,
    explained,
)
from ai_task_processor.core.groups import Group
from ai_task_processor.core.pointer import keys, resolve
from ai_task_processor.core.ports import Admission, Backlog, Clock, SourceMemory, TaskSource, Want
from ai_task_processor.core.profiles import Profile, ProfileSource
from ai_task_processor.models.task import Claim, Failure, Outcome, Receipt, Task, TaskStatus
from ai_task_processor.net.client import HttpClient
from ai_task_processor.net.oauth import TokenSource
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.net.push import Push
from ai_task_processor.net.resilience import Gate
from ai_task_processor.net.services import Services
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.rest.bodies import Bodies
from ai_task_processor.sources.rest.checks import Everything, explain, list_pending, open_push
from ai_task_processor.sources.rest.clients import delivering_client, polling_client, push_connection
from ai_task_processor.sources.rest.marks import Marks
from ai_task_processor.sources.rest.polls import Polls, list_type
from ai_task_processor.sources.rest.profile import RestProfile
from ai_task_processor.sources.rest.report_check import report_nothing
from ai_task_processor.sources.rest.reports import Reports
from ai_task_processor.sources.rest.settings import ApiSettings, SecretSettings
from ai_task_processor.sources.rest.task_requests import TaskRequests
from ai_task_processor.sources.rest.wake_ups import WakeUps
from ai_task_processor.sources.rest.wire import ANY_ID, Invalid, Records

#: the token endpoint in metrics
TOKEN_ROUTE = ("/oauth2/token", "POST")
#: the token of a receipt whose result may be followed by another task
FOLLOWED = "followed"
#: a task that is taken according to the API is skipped for this long, seconds
TAKEN_S = 60.0


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
        profile, followed = self.profile, self.profile.followed
        # Two requests, each with a token and once again after a 401: their own time-outs come first.
        self.report_within_s = 8 * settings.request_timeout_s
        self._settings = settings
        self._remote = Remote("task API", "API_BASE_URL", settings.base_url)
        self._followed = None if followed is None else (keys(followed.pointer), followed.prefix)
        self._polls = Polls(settings, profile, polling, poll_gate, clock=clock, metrics=metrics)
        self._requests = TaskRequests(settings, profile, delivering, metrics)
        self._reports = Reports(profile, self._requests, delivery_gate)
        self._wake_ups = WakeUps(profile, self._polls.ahead, clock=clock, metrics=metrics)
        self._clients = [polling, delivering, *([tokens.client] if tokens else [])]
        self._tokens = tokens
        self._memory = memory
        self._marks: Marks | None = None
        self._clock = clock
        #: why the API refuses all reports until an operator acts; None when it accepts them
        self.report_problem: str | None = None
        self._push = None if push is None else push(self._wake_ups.pushed)

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
            body = self._reports.bodies.of(outcome)
        elif claim is not None and self._memory is not None:
            method, path, body = claim.method or method, claim.path or path, codec.line(claim.mark)
        else:
            return None
        return f"{method} {self._requests.url(path, task_id)}", body

    @classmethod
    def build(cls, services: Services) -> Self:
        api, profile, claim, push = services.settings[ApiSettings], cls.profile, cls.profile.claim, cls.profile.push
        tokens = None if profile.auth == "none" else TokenSource.build(services, within_s=api.request_timeout_s)
        marks = claim is not None and (api.mark_in_progress or not claim.optional)
        return cls(
            api,
            polling=polling_client(profile, services, tokens),
            delivering=delivering_client(profile, services, tokens),
            poll_gate=services.gate("api_poll"),
            delivery_gate=services.gate("api_delivery"),
            tokens=tokens,
            memory=services.memory if marks else None,
            push=None if push is None else partial(push_connection, profile, services, tokens, push),
            clock=services.clock,
            metrics=services.metrics,
        )

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
        return self._polls.backlog

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
        listing = list_type(self.profile)(self._settings, self.profile, self._clients[0], Everything())
        work = partial(list_pending, listing, self._remote)
        listed = Check("pending list", work, self._remote.setting, (self._remote, *token))
        reports = partial(report_nothing, self.profile, self._requests.exchange, self._remote)
        found = [*token, listed, Check("report", reports, self._remote.setting, (listed,), writes=True)]
        if self._push is None:
            return found
        opens, needs = partial(open_push, self._push), (self._remote, *token)
        return (*found, Check("push", opens, self._remote.setting, needs, late=warning))

    def explain(self, problem: Problem) -> Finding | None:
        return explain(problem, granted=self._tokens is not None and self._tokens.held)

    async def claim(self, want: Want) -> Sequence[Claim]:
        """Candidates of the last list while there are any; a new list only when none of them may start."""
        if want.limit <= 0:
            return ()
        self._polls.admission = want.admission
        if self._memory is not None and self._marks is None:
            self._marks = self._new_marks(self._memory, want.admission)
            await self._marks.recover()
        tasks = await self._polls.list.take(want.limit) or await self._polls.poll(want.limit)
        if self._marks is not None and tasks:
            tasks = await self._mark(tasks, self._marks)
        return [Claim(task, self._receipt(task)) for task in tasks.values()]

    def _new_marks(self, memory: SourceMemory, admission: Admission) -> Marks:
        claim, late_s = self.profile.claim, self._settings.request_timeout_s
        within_s = inf if claim is None or claim.within_s is None else claim.within_s
        return Marks(
            self._reports.set_state,
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
                self._polls.defer(task_id, TAKEN_S)
        return {task_id: task for (task_id, task), mine in zip(tasks.items(), ours, strict=True) if mine}

    async def wait(self, timeout_s: float) -> bool:
        return await self._wake_ups.wait(timeout_s)

    def wake(self) -> None:
        """Every push calls this: it ends ``wait``, in which the scheduler sleeps between polls. The scheduler decides
        when to poll next, and which pauses a push does not shorten.
        """
        self._wake_ups.wake("http")

    def resume(self) -> None:
        self._wake_ups.resume()

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        """An acknowledged result that may be followed by another task ends the wait for the next poll."""
        try:
            state = await self._reports.send(receipt.id, outcome)
        except Rejected as error:
            if error.outcome in ("gone", "conflict"):
                self._polls.gone(receipt.id)
            raise
        except NoToken:
            raise
        except (Misconfigured, Unauthorized) as error:
            self.report_problem = explained(error)
            raise
        self.report_problem = None
        self._polls.acknowledged(receipt.id)
        if self._marks is not None:
            await self._marks.acknowledged(receipt.id, state)
        if receipt.token == FOLLOWED and state is TaskStatus.SUCCEEDED:
            self.resume()

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:  # noqa: ARG002 - the API has no place for a failure that is not final
        """The task is still pending upstream: this process skips it until the delay is over."""
        self._polls.defer(receipt.id, delay_s)
        if self._marks is not None:
            await self._marks.withdraw(receipt.id)

    async def check(self) -> None:
        """Read the first bytes of the list. Raises ``RemoteError``."""
        await self._polls.list.answers()
