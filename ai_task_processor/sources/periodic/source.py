"""A periodic source: a list of what is due soon becomes one task for each (id, due time), and no second one.

The list is read as a whole. A task id is a key (``listing.key``): another due time is another task. Nothing is reported
upstream. ``report`` stores the key until the due time plus ``drop_after_s``: that is the acknowledgement, and the
sinks after the report come after it. Whenever the process is killed,

- before the outcome is in the outbox: the task is listed again, unless its due time has passed meanwhile;
- later: the outbox has it, whether it is still listed or not, and delivers it. A sink that had just taken it gets it
  once more, with the same event id;
- after that: the stored key keeps it from being listed again.

A task that failed is a dead letter: there is nobody to report it to. What is not delivered ``drop_after_s`` after its
due time is dropped, and so is a listed task that is overdue by as much.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from math import inf
from typing import ClassVar, Self
from urllib.parse import urlencode

from ai_task_processor.core.checks import Check, Finding, Remote, Stopwatch, refused, warning
from ai_task_processor.core.checks import Listed as Sample
from ai_task_processor.core.errors import (
    CircuitOpen,
    ConfigurationError,
    OutboxUnwritable,
    Rejected,
    RemoteError,
    Transient,
    Unauthorized,
)
from ai_task_processor.core.groups import Group
from ai_task_processor.core.ports import Backlog, SkipReason, SourceMemory, TaskSource, Want
from ai_task_processor.core.profiles import Profile, ProfileSource
from ai_task_processor.models.task import Claim, Failed, Failure, Outcome, Receipt, Task
from ai_task_processor.net.services import Services
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.sources.periodic import addresses
from ai_task_processor.sources.periodic.addresses import Addresses
from ai_task_processor.sources.periodic.api import Api, refusal
from ai_task_processor.sources.periodic.listing import Listed, due_of, read, task_of
from ai_task_processor.sources.periodic.profile import PeriodicProfile
from ai_task_processor.sources.periodic.settings import PeriodicSettings

#: a larger answer is read in a thread: a thousand tasks take ten milliseconds
LARGE_BYTES = 2**16
#: more listed tasks than are wanted, that admission is asked about at once
SPARE = 64

log = get_logger(__name__)


class PeriodicSource(ProfileSource, TaskSource):
    """``ports.TaskSource`` for a profile of the kind ``periodic``."""

    profile_type = PeriodicProfile
    profile: ClassVar[PeriodicProfile]
    claims = "none"
    #: the circuits beside that of the list
    services: ClassVar[Sequence[str]] = (addresses.SERVICE,)
    #: path and method of its requests, for the metrics' closed label set
    routes: ClassVar[Sequence[tuple[str, str]]] = ()

    def __init__(self, services: Services, memory: SourceMemory) -> None:
        profile, clock = self.profile, services.clock
        self._api = Api(services, profile)
        self._remote = Remote("task API", "API_BASE_URL", self._api.base_url)
        self._gate = services.gate("api_poll")
        self._memory = memory
        self._clock, self._metrics = clock, services.metrics
        self._interval_s = services.settings.worker.polling_interval_s
        if profile.addresses is not None:
            services.lookups["email"] = Addresses(services, self._api, profile.addresses)
        #: keys that were reported, and when each is forgotten, seconds since the epoch; None until they are read
        self._done: dict[str, float] | None = None
        #: what was listed last and is not done, soonest first
        self._listed: dict[str, Task] = {}
        self._listed_at = -inf
        #: overdue keys that the last list had
        self._dropped: set[str] = set()
        self._deferred: dict[str, float] = {}
        self._invalid: Counter[str] = Counter()
        self._backlog = Backlog()
        self._woken = asyncio.Event()
        services.metrics.read_ahead(lambda: self._backlog.read_ahead)

    @classmethod
    def of(cls, name: str, profile: Profile) -> type[Self]:
        made = super().of(name, profile)
        looked_up = made.profile.addresses
        made.routes = [(part.path, "GET") for part in (made.profile.listing, looked_up) if part is not None]
        return made

    @classmethod
    def task_of(cls, record: object) -> Task:
        """The task of a listed record, whenever it is due. Raises ``ValueError`` with what is wrong."""
        return task_of(record, cls.profile)

    @classmethod
    def groups(cls, profile: PeriodicProfile) -> Sequence[type[Group]]:  # noqa: ARG003 - the same for each
        return (PeriodicSettings,)

    @classmethod
    def build(cls, services: Services) -> Self:
        """Raises ``ConfigurationError``, also when a task could be missed between two lists."""
        window_s, problems = 60 * cls.profile.listing.window_minutes, []
        if window_s < 2 * services.settings.worker.polling_interval_s:
            most = f"POLLING_INTERVAL_SECONDS must be at most {window_s / 2:g}"
            problems.append(f"{most}, because the profile asks for tasks of the next {window_s} s")
        if cls.profile.needs_secret and services.settings[PeriodicSettings].secret is None:
            problems.append("API_SECRET is missing: set it to the secret that the task API takes in a header")
        if problems:
            raise ConfigurationError(*problems)
        assert services.memory is not None  # noqa: S101 - every store has one
        return cls(services, services.memory)

    async def aclose(self) -> None:
        await self._api.aclose()

    async def reload(self) -> None:
        """The secret may be another one: list again."""
        self.wake()

    @property
    def backlog(self) -> Backlog:
        return self._backlog

    def status(self) -> Mapping[str, object]:
        return {"remembered": len(self._done or ())}

    def remotes(self) -> Sequence[Remote]:
        return (self._remote,)

    def checks(self) -> Sequence[Check]:
        return (Check("list", self._check, self._remote.setting, (self._remote,)),)

    async def _check(self) -> AsyncIterator[Finding | Sample]:
        watch = Stopwatch()
        try:
            found = await self._read()
        except RemoteError as error:
            yield refused(error, self._remote, {Unauthorized: "correct API_SECRET"})
            return
        unusable = [("", f"{reason} ({count} of such)") for reason, count in found.invalid.items()]
        yield Sample([due.task for due in found.due], found.seen, True, str(watch), unusable)
        if count := found.invalid.total():
            yield warning(f"{count} are items that cannot be used", "correct [fields] in the profile")

    async def wait(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    def wake(self) -> None:
        self._metrics.woken("http")
        self._listed_at = -inf
        self.resume()

    def resume(self) -> None:
        self._woken.set()

    async def claim(self, want: Want) -> Sequence[Claim]:
        """The tasks that are due first. A list serves for half of ``POLLING_INTERVAL_SECONDS``."""
        if want.limit <= 0:
            return ()
        if self._done is None:
            self._done = await self._remembered()
        if self._clock.monotonic() - self._listed_at >= self._interval_s / 2:
            await self._list(self._done)
        tasks, skipped = await self._admitted(want)
        self._backlog = Backlog(self._backlog.seen, True, len(self._listed) - len(tasks) - skipped.total(), skipped)
        return [Claim(task, Receipt(self.name, task.id)) for task in tasks]

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        """Store the key. Raises ``Rejected`` for a task that failed: there is nobody to report it to."""
        due_at = due_of(receipt.id)
        if due_at is None:
            raise Rejected("gone")
        if isinstance(outcome, Failed):
            refusal = Rejected("refused")
            refusal.detail = f"{outcome.failure.code}: {outcome.failure.message}".rstrip(": ")
            raise refusal
        try:
            await self._memory.remember([receipt.id], until := self._until(due_at))
        except OutboxUnwritable as error:
            raise Transient(f"that it is done cannot be stored: {error}") from error
        if self._done is not None:
            self._done[receipt.id] = until
        self._listed.pop(receipt.id, None)

    def expired(self, receipt: Receipt) -> bool:
        due_at = due_of(receipt.id)
        return due_at is not None and self._until(due_at) < self._now()

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:  # noqa: ARG002 - there is no place for a failure
        self._deferred[receipt.id] = self._clock.monotonic() + delay_s

    def _now(self) -> float:
        return self._clock.now().timestamp()

    def _until(self, due_at: datetime) -> float:
        """Until when a task is of interest, seconds since the epoch."""
        return due_at.timestamp() + self.profile.drop_after_s

    async def _remembered(self) -> dict[str, float]:
        try:
            keys = await self._memory.remembered()
        except OutboxUnwritable as error:
            raise Transient(f"what is done cannot be read: {error}") from error
        return {key: self._until(due_at) for key in keys if (due_at := due_of(key)) is not None}

    async def _read(self) -> Listed:
        """The list as it is now. Raises ``RemoteError``."""
        listing = self.profile.listing
        window = str(listing.window_minutes)
        query = urlencode({name: text.replace("{window_minutes}", window) for name, text in listing.query.items()})
        answer = await self._api.get(listing.path, f"{listing.path}?{query}" if query else listing.path)
        if not answer.is_success:
            raise refusal(answer)
        if len(answer.content) < LARGE_BYTES:
            return read(answer.content, self.profile)
        return await asyncio.to_thread(read, answer.content, self.profile)

    async def _list(self, done: dict[str, float]) -> None:
        started_at = time.perf_counter()
        try:
            found = await self._gate.call(self._read)
        except CircuitOpen:
            raise
        except RemoteError as error:
            self._metrics.poll_failed(error, duration_s=time.perf_counter() - started_at)
            raise
        self._listed_at = now = self._clock.monotonic()
        self._deferred = {key: until for key, until in self._deferred.items() if until > now}
        epoch = self._now()
        overdue = {due.task.id for due in found.due if self._until(due.at) < epoch}
        for key in sorted(overdue - self._dropped - done.keys()):
            log.warning("task.dropped", task_id=key, after_s=self.profile.drop_after_s)
        self._dropped = overdue
        over = overdue | done.keys()
        self._listed = {due.task.id: due.task for due in found.due if due.task.id not in over}
        self._note(found, time.perf_counter() - started_at)
        await self._forget([key for key, until in done.items() if until < epoch], done)

    def _note(self, found: Listed, took_s: float) -> None:
        self._backlog = Backlog(found.seen, True)
        self._metrics.poll_finished("tasks" if self._listed else "empty", duration_s=took_s, bytes_read=found.bytes)
        self._metrics.pending_seen(found.seen, oldest_age_s=None, complete=True)
        skipped = {
            "invalid": found.invalid.total(),
            "duplicate": found.duplicates,
            "stale": len(found.due) - len(self._listed),
        }
        for reason, count in skipped.items():
            self._metrics.task_skipped(reason, count)
        for reason, count in (found.invalid - self._invalid).items():
            log.warning("record.skipped", reason=reason, records=count)
        self._invalid = found.invalid

    async def _forget(self, keys: Sequence[str], done: dict[str, float]) -> None:
        """Delete keys that have expired. While the disk fails they stay there, and do no harm."""
        for key in keys:
            del done[key]
        if keys:
            with suppress(OutboxUnwritable):
                await self._memory.forget(keys)

    async def _admitted(self, want: Want) -> tuple[list[Task], Counter[SkipReason]]:
        """The first listed tasks that may start, and how many before them may not."""
        tasks, skipped, now = list[Task](), Counter[SkipReason](), self._clock.monotonic()
        keys, at_once = list(self._listed), want.limit + SPARE
        for start in range(0, len(keys), at_once):
            part = [self._listed[key] for key in keys[start : start + at_once] if key in self._listed]
            asked = [task for task in part if self._deferred.get(task.id, -inf) <= now]
            if len(asked) < len(part):
                skipped["deferred"] += len(part) - len(asked)
            for task, reason in zip(asked, await want.admission.refuse(asked), strict=True):
                if len(tasks) == want.limit:
                    return tasks, skipped
                if reason is not None:
                    skipped[reason] += 1
                else:
                    tasks.append(task)
        return tasks, skipped
