"""Records of an outbox."""

from typing import Any

from ai_task_processor.models.task import Receipt, Record, TaskStatus


def record(task_id: str = "a", source: str = "aletheia", **fields: Any) -> Record:
    given = {"task_type": "t", "status": TaskStatus.SUCCEEDED, "fingerprint": "", "finished_at": 0.0, **fields}
    return Record(receipt=Receipt(source, task_id), **given)
