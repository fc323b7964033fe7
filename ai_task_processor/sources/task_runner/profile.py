"""What a profile of the kind ``task-runner`` says: tables, queues, and where artifacts are."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from ai_task_processor.core.profiles import Part, Profile
from ai_task_processor.sources.postgres.profile import Table

Key = Annotated[str, Field(min_length=1, max_length=200)]


class Tables(Part):
    """The names of the four tables, each ``table`` or ``schema.table``. Their columns are always the same."""

    tasks: Table = "tasks"
    runs: Table = "runs"
    artifacts: Table = "artifacts"
    metrics: Table = "metrics"


class Queue(Part):
    """The keys of a queue in Redis, under any name. One queue is without ``types``."""

    queue: Key = Field(description="the list of queued tasks")
    processing: Key = Field(description="the list of running tasks")
    ids: Key = Field(description="the set of the ids in both lists")
    types: tuple[str, ...] | None = Field(None, description="its task types; those of no other queue if not set")


class TaskRunnerProfile(Profile):
    """The queue of a task runner: rows in PostgreSQL, an index of them in Redis, artifacts in S3."""

    kind: Literal["task-runner"]
    tables: Tables = Field(Tables(), description="the names of the tables; their columns are always the same")
    queues: Mapping[str, Queue]
    heartbeat: Key = Field("worker:heartbeat", description="the key in Redis with the time of the last sign of life")
    prefix: str = Field(
        "tasks/", pattern=r"^([A-Za-z0-9_-][A-Za-z0-9._-]*/)*$", description="what the names of objects begin with"
    )
    calls_nobody: tuple[str, ...] = Field(
        (), description="types whose work costs nothing: a task of others waits while an equal one runs"
    )

    #: what the kind ``postgres`` lets a profile choose
    id_type: ClassVar[str] = "text"
    notify: ClassVar[None] = None
    reap: ClassVar[bool] = True
    only_type: ClassVar[None] = None

    @property
    def table(self) -> str:
        """The table of tasks."""
        return self.tables.tasks

    @field_validator("queues")
    @classmethod
    def _one_for_the_rest(cls, queues: Mapping[str, Queue]) -> Mapping[str, Queue]:
        if [queue.types for queue in queues.values()].count(None) != 1:
            raise ValueError("exactly one queue must be without types")
        return queues

    def queue_of(self, task_type: str) -> Queue:
        """The queue of a type."""
        rest, *named = sorted(self.queues.values(), key=lambda queue: queue.types is not None)
        return next((queue for queue in named if task_type in (queue.types or ())), rest)
