"""Inspects listed records: which task each of them is, and why it must not start now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ai_task_processor.core import codec
from ai_task_processor.core.ports import Admission, SkipReason
from ai_task_processor.models.task import Task
from ai_task_processor.sources.rest.wire import Invalid, Records


@dataclass(slots=True)
class Inspected:
    """A record of the list. ``found``: its task, or why it is invalid; None when it need not be parsed again.

    ``reason``: why it must not start now. ``created_at``: of one that was not parsed, seconds since the epoch.
    """

    record: bytes
    task_id: str
    found: Task | Invalid | None = None
    reason: SkipReason | None = None
    created_at: float | None = None


class Inspector:
    """``before``: the ids of the last page, with creation times.

    One of them that is being worked on need not be parsed again: half of a list is such.
    """

    def __init__(self, records: Records, admission: Admission) -> None:
        self._records = records
        self._admission = admission

    async def of_bytes(self, records: Sequence[bytes], before: Mapping[str, float | None]) -> list[Inspected]:
        """Records as they were listed."""
        first_id = self._records.first_id
        matches = (None if first_id is None else first_id.match(record) for record in records)
        ids = ["" if found is None else found[1].decode("ascii") for found in matches]
        busy = await self._admission.busy([task_id for task_id in ids if task_id in before])
        inspected: list[Inspected] = []
        for record, task_id in zip(records, ids, strict=True):
            if task_id in busy:
                inspected.append(Inspected(record, task_id, None, busy[task_id], before[task_id]))
            else:
                inspected.append(Inspected(record, task_id, self._records.parse(record)))
        return await self._refused(inspected)

    async def of_whole(self, raws: Sequence[object], before: Mapping[str, float | None]) -> list[Inspected] | None:
        """The records of a list that was parsed in one go; None when anything is wrong with one of them."""
        ids = [self._records.id_of(raw) for raw in raws]
        busy = await self._admission.busy([id_ for id_ in ids if isinstance(id_, str) and id_ in before])
        found: list[Inspected] = []
        for raw, task_id in zip(raws, ids, strict=True):
            if isinstance(task_id, str) and task_id in busy:
                found.append(Inspected(b"", task_id, None, busy[task_id], before[task_id]))
                continue
            task = self._records.task(raw)
            if isinstance(task, Invalid):
                return None
            found.append(Inspected(b"", task.id, task))
        return await self._refused(found)

    async def of_objects(self, raws: Sequence[Any]) -> list[Inspected]:
        """Parsed records, the invalid ones with their bytes."""
        found = []
        for raw in raws:
            task = self._records.task(raw)
            if isinstance(task, Invalid):
                found.append(Inspected(codec.dumps(raw), task.task_id or "", task))
            else:
                found.append(Inspected(b"", task.id, task))
        return await self._refused(found)

    async def _refused(self, inspected: list[Inspected]) -> list[Inspected]:
        """Which of the parsed ones must not start now."""
        parsed = [(one, one.found) for one in inspected if isinstance(one.found, Task)]
        for (one, _), reason in zip(parsed, await self._admission.refuse([task for _, task in parsed]), strict=True):
            one.reason = reason
        return inspected
