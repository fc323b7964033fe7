"""Converts outcomes to records of the outbox, and back."""

import json
from collections.abc import Mapping
from typing import Any

from ai_task_processor.core import codec
from ai_task_processor.models.task import (
    Cancelled,
    Completed,
    Failed,
    Failure,
    Outcome,
    Receipt,
    Record,
    Task,
    TaskResult,
    TaskStatus,
    Usage,
    Vector,
)


def to_record(
    task: Task, receipt: Receipt, outcome: Outcome, finished_at: float, trace: Mapping[str, str] | None = None
) -> Record:
    """The record of an outcome; ``trace`` continues the trace of its attempt.

    Raises ``ValueError`` when a result cannot be written as JSON.
    """
    body, vector, usage = b"null", None, None
    match outcome:
        case Completed(result):
            status = TaskStatus.SUCCEEDED
            body = b"null" if result.output is None else codec.dumps(result.output)
            vector = None if result.vector is None else bytes(result.vector.data)
            usage = result.usage if isinstance(result.usage, Usage) else None
        case Failed(failure):
            status, body = TaskStatus.FAILED, codec.dumps({"code": failure.code, "message": failure.message})
        case Cancelled():
            status = TaskStatus.CANCELLED
    return Record(
        receipt=receipt,
        task_type=task.type,
        status=status,
        fingerprint=codec.fingerprint(task.content),
        finished_at=finished_at,
        created_at=None if task.created_at is None else task.created_at.timestamp(),
        body=body,
        vector=vector,
        trace=trace,
        usage=usage,
    )


def to_outcome(record: Record) -> Outcome:
    """The outcome of a record. Raises ``ValueError``, ``KeyError`` or ``TypeError`` for a damaged one."""
    body: Any = None if record.body == b"null" else json.loads(record.body)
    match record.status:
        case TaskStatus.FAILED:
            return Failed(Failure(body["code"], body["message"]))
        case TaskStatus.CANCELLED:
            return Cancelled()
        case _:
            vector = None if record.vector is None else Vector(record.vector)
            return Completed(TaskResult(body, usage=record.usage, vector=vector))
