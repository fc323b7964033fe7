"""Requests the list through its gate, and says which of its tasks may start.

A list gives no ownership, so every listed task may be processed, except those that are excluded here: tasks
acknowledged after the list was requested, and tasks released a moment ago. Nothing else excludes a task: one that an
operator sets to pending runs again. The same applies when a candidate of an earlier list starts.
"""

import time
from collections.abc import Mapping, Sequence

from ai_task_processor.core.errors import CircuitOpen, RemoteError
from ai_task_processor.core.ports import Admission, Backlog, Clock, SkipReason
from ai_task_processor.models.task import Task
from ai_task_processor.net.client import HttpClient
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.sources.rest.listing import PendingList
from ai_task_processor.sources.rest.page import Page
from ai_task_processor.sources.rest.paged import PagedList
from ai_task_processor.sources.rest.profile import RestProfile
from ai_task_processor.sources.rest.read_ahead import ReadAhead
from ai_task_processor.sources.rest.settings import ApiSettings


def list_type(profile: RestProfile) -> type[PendingList]:
    """How the list is read."""
    return PendingList if profile.listing.streamed else PagedList


class Polls:
    """The list and its candidates. It is the ``Admission`` of its tasks, over that of the engine."""

    def __init__(
        self,
        settings: ApiSettings,
        profile: RestProfile,
        client: HttpClient,
        gate: Gate,
        *,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self.ahead = ReadAhead(settings.read_ahead_bytes, settings.read_ahead_s, clock.monotonic)
        metrics.read_ahead(lambda: len(self.ahead))
        self.list = list_type(profile)(settings, profile, client, self, ahead=self.ahead, metrics=metrics)
        #: the engine's, once it has asked for tasks
        self.admission: Admission | None = None
        self._gate = gate
        self._clock = clock
        self._metrics = metrics
        self._acknowledged_meanwhile: set[str] | None = None
        self._deferred: dict[str, float] = {}

    @property
    def backlog(self) -> Backlog:
        page = self.list.last_page
        return Backlog(page.seen, page.complete, len(self.ahead), page.skipped)

    async def poll(self, limit: int) -> Mapping[str, Task]:
        """At most ``limit`` tasks of a new list that may start now. Raises ``RemoteError``."""
        started_at = time.perf_counter()
        self._acknowledged_meanwhile = set()
        try:
            page = await self._gate.call(lambda: self.list.read(limit))
        except CircuitOpen:
            raise
        except RemoteError as error:
            self._metrics.poll_failed(error, duration_s=time.perf_counter() - started_at)
            raise
        finally:
            self._acknowledged_meanwhile = None
        self._note(page, time.perf_counter() - started_at)
        return page.tasks

    def _note(self, page: Page, took_s: float) -> None:
        self._metrics.poll_finished("tasks" if page.tasks else "empty", duration_s=took_s, bytes_read=page.bytes_read)
        now = self._clock.monotonic()
        self._deferred = {task_id: due for task_id, due in self._deferred.items() if due > now}
        age_s = None if page.oldest is None else max(0.0, self._clock.now().timestamp() - page.oldest)
        self._metrics.pending_seen(page.seen, oldest_age_s=age_s, complete=page.complete)
        for reason, count in page.skipped.items():
            self._metrics.task_skipped(reason, count)

    def defer(self, task_id: str, delay_s: float) -> None:
        """Skip the task for this long."""
        self._deferred[task_id] = self._clock.monotonic() + delay_s

    def acknowledged(self, task_id: str) -> None:
        """The API has the outcome of the task."""
        self.ahead.drop(task_id)
        if self._acknowledged_meanwhile is not None:
            self._acknowledged_meanwhile.add(task_id)

    def gone(self, task_id: str) -> None:
        """The API does not have the task any more, or not as it was listed."""
        self.ahead.drop(task_id)
        self.ahead.doubt()

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        """``Admission.busy``, and tasks released a moment ago."""
        now = self._clock.monotonic()
        found: dict[str, SkipReason] = {id_: "deferred" for id_ in task_ids if self._deferred.get(id_, 0.0) > now}
        if self.admission is not None:
            found = {**await self.admission.busy(task_ids), **found}
        return found

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        """``Admission.refuse``, and tasks released a moment ago, or acknowledged since the list was requested."""
        now, stale = self._clock.monotonic(), self._acknowledged_meanwhile
        if stale is None:
            stale = set()
        # Only for these: what admission lets start counts against limits.
        asked = [task for task in tasks if task.id not in stale and self._deferred.get(task.id, 0.0) <= now]
        found: Sequence[SkipReason | None] = [None] * len(asked)
        if self.admission is not None:
            found = await self.admission.refuse(asked)
        reasons = {task.id: reason for task, reason in zip(asked, found, strict=True)}
        return ["stale" if task.id in stale else reasons.get(task.id, "deferred") for task in tasks]
