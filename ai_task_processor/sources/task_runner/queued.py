"""The task of a row, with what a claim must know of it. Pure."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.sources.postgres.table import time_of
from ai_task_processor.sources.task_runner.run_keys import run_key

#: ids become parts of names of objects
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
#: types whose answers of other servers are stored as they came
_SEARCHES: Final = frozenset({"search", "search_batch"})


@dataclass(frozen=True, slots=True)
class Limits:
    """The most for one task. ``timeout_s``: the daemon's own limit for one attempt."""

    max_runtime_s: float
    max_bytes: int
    timeout_s: float


def task_of(row: Sequence[Any], limits: Limits) -> Task | None:
    """The task of a row, whatever its params are; None for an id that cannot be used.

    ``raw``: its columns, why it cannot be processed, and its run key.
    """
    id_, kind, _, created_s, _, _, params, timeout_s, retries, starts, cancel = row
    if not _ID.fullmatch(id_):
        return None
    content, key, nonsense = None, kind, ""
    try:
        content = None if params is None else json.loads(params)
        key = run_key(kind, content)
    except (ValueError, RecursionError):
        content, nonsense = None, "unreadable_params"
    if timeout_s <= 0:
        nonsense = "invalid_timeout"
    elif retries < 0:
        nonsense = "invalid_max_retries"
    if kind in _SEARCHES and isinstance(content, dict):
        content = {**content, "include_raw": True}
    return Task(
        id=id_,
        type=TaskType.named(kind),
        content=content,
        created_at=time_of(created_s),
        attempt=starts + 1,
        timeout_s=min(timeout_s, limits.max_runtime_s),
        # The last start that is left, and one that ends for good at the longest runtime.
        attempt_limit=1 if starts >= retries or limits.max_runtime_s < timeout_s else None,
        raw={"type": kind, "cancel_requested": cancel, "nonsense": nonsense, "run_key": key},
    )


def type_of(task: Task) -> str:
    """The type as its row has it."""
    return str(task.raw["type"])


def key_of(task: Task) -> str:
    return str(task.raw["run_key"])
