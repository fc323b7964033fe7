"""A task runner's queue as a task source: claims, leases and reports as in ``sources.postgres``; Redis wakes."""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Final

from ai_task_processor.core.checks import Check, Remote
from ai_task_processor.core.component import Problem
from ai_task_processor.core.errors import Unauthorized
from ai_task_processor.core.groups import Group
from ai_task_processor.models.task import Failure, Outcome, Receipt
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.leases import LeaseSettings
from ai_task_processor.net.postgres_settings import DatabaseSettings
from ai_task_processor.net.redis_settings import RedisSettings
from ai_task_processor.net.s3 import Bucket
from ai_task_processor.net.services import Services
from ai_task_processor.sources.postgres.page import Claims
from ai_task_processor.sources.postgres.poll import Poll
from ai_task_processor.sources.postgres.source import PostgresSource
from ai_task_processor.sources.task_runner.profile import TaskRunnerProfile
from ai_task_processor.sources.task_runner.settings import ArtifactSettings, RunSettings

if TYPE_CHECKING:  # the drivers are extras, and take time to import
    from ai_task_processor.net.postgres import Database
    from ai_task_processor.sources.task_runner.table import Rows

#: seconds between two renewals: a cancelled task ends within it
BEAT_S: Final = 0.5
#: seconds until tasks that wait for an equal one are looked at again: it may run elsewhere
EQUAL_S: Final = 0.5
#: the longest pause before a failed task is started again here, seconds
LONGEST_RETRY_S: Final = 60.0
#: seconds for one request to S3
OBJECT_S: Final = 30.0


class TaskRunnerSource(PostgresSource):
    """``ports.TaskSource`` for the tables and queues that ``profile`` describes."""

    profile_type = TaskRunnerProfile  # type: ignore[assignment]  # as the line below
    profile: ClassVar[TaskRunnerProfile]  # type: ignore[assignment]  # it has what the base reads of a profile
    _table: "Rows"

    @classmethod
    def groups(cls, profile: TaskRunnerProfile) -> Sequence[type[Group]]:  # type: ignore[override]  # noqa: ARG003 - as above
        return DatabaseSettings, LeaseSettings, RedisSettings, ArtifactSettings, RunSettings

    def __init__(self, services: Services) -> None:
        from ai_task_processor.net.redis import connect
        from ai_task_processor.sources.task_runner.queue import Queues

        settings = services.settings
        self._settings = settings
        artifacts = settings[ArtifactSettings]
        self._client = services.client(artifacts.endpoint_url, settings.delivery.concurrency)
        self._bucket = Bucket(
            f"{artifacts.endpoint_url}/{artifacts.bucket}",
            lambda: services.secrets[ArtifactSettings],
            services.clock,
            self._exchange,
        )
        self._secrets = services.secrets
        self._connect = partial(connect, lambda: services.secrets[RedisSettings], settings.network)
        self._queues = Queues(
            self._connect,
            self.profile,
            woken=self._queue_woke,
            refused=services.secrets.reread,
            now=lambda: services.clock.now().timestamp(),
        )
        super().__init__(services)
        place = settings[RedisSettings].place
        self._of_database = self._remotes
        self._of_redis = () if place is None else (Remote("Redis", "REDIS_URL", place),)
        self._storage = Remote("S3", "S3_ENDPOINT_URL", artifacts.endpoint_url)
        self._remotes = (*self._of_database, *self._of_redis, self._storage)
        self.renew_every_s = min(BEAT_S, self.renew_every_s or BEAT_S)

    def _made_table(self, database: "Database") -> "Rows":
        from ai_task_processor.sources.task_runner.queued import Limits
        from ai_task_processor.sources.task_runner.table import Rows

        limits, worker = self._settings[RunSettings], self._settings.worker
        most = Limits(limits.max_runtime_s, limits.max_bytes, worker.task_timeout_s)
        return Rows(database, self.profile, self._bucket, self._queues, most)

    @classmethod
    def preparation(cls) -> Sequence[tuple[str, str]]:
        from ai_task_processor.sources.task_runner.statements import RunnerStatements

        return RunnerStatements(cls.profile.tables).indexes()

    async def run(self, ready: asyncio.Event) -> None:
        """Hold the session and keep the queues until cancelled. Servers that are away are no reason to end."""
        types = self._settings.parts.enabled_task_types or self.profile.types
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queues.run(self._table, types), name="source-queues")
                await super().run(ready)
        finally:
            await self._client.aclose()

    def _queue_woke(self) -> None:
        self._metrics.woken("redis")
        self.resume()

    def _take(self, poll: Poll, claims: Claims) -> None:
        super()._take(poll, claims)
        if waiting := getattr(claims, "waiting", 0):
            poll.skipped["deferred"] += waiting
            self._resume_in(EQUAL_S)

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        try:
            await super().report(receipt, outcome)
        except Unauthorized:
            await self._secrets.reread()
            raise
        if starts := self._table.retried.pop(receipt.id, 0):
            self._defer(receipt, min(LONGEST_RETRY_S, 2.0 ** min(starts, 16)))

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:
        """Other processes may claim it at once. When this fails, it is released as an orphan."""
        self._held.pop(receipt, None)
        self._defer(receipt, delay_s)
        await self._table.release(receipt, (failure.message or failure.code) if failure else None)

    def _defer(self, receipt: Receipt, seconds: float) -> None:
        self._deferred[receipt.id] = self._clock.monotonic() + seconds
        self._resume_in(seconds)

    def _resume_in(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.resume)

    async def _exchange(self, method: str, url: str, headers: Mapping[str, str], content: bytes | None) -> Answer:
        return await self._client.exchange(method, url, headers=headers, content=content, timeout_s=OBJECT_S)

    # --- status and checks

    def problems(self) -> Sequence[Problem]:
        """Without Redis tasks are done all the same."""
        problem = self._queues.problem
        away = [] if problem is None else [Problem("queue_unavailable", problem, ready=True, when="never")]
        return [*super().problems(), *away]

    def status(self) -> Mapping[str, object]:
        queue = {"reachable": self._queues.problem is None, "unsent_changes": self._queues.unsent}
        return {**super().status(), "queue": queue}

    def checks(self) -> Sequence[Check]:
        from ai_task_processor.sources.task_runner import checks

        tables = partial(checks.tables, self._table, self.profile, self.name, self._unverified)
        queues = partial(checks.queues, self._connect, self.profile)
        access = partial(checks.bucket, self._bucket)
        return (
            Check("tables", tables, "DATABASE_URL", self._of_database),
            Check("queues", queues, "REDIS_URL", self._of_redis),
            Check("access", access, "S3_ENDPOINT_URL", [self._storage], self._storage.name),
            Check("limits", partial(checks.limits, self._settings), "TASK_TIMEOUT"),
        )
