"""A stranger's sink: one JSON line for each result in a file."""

import json
from pathlib import Path

from ai_task_processor.core.groups import Group, setting
from ai_task_processor.core.ports import Sink
from ai_task_processor.models.task import Record
from ai_task_processor.net.services import Services


class LinesSettings(Group):
    """Where the lines go."""

    path: Path = setting("ACME_LINES", "the file of the results", ...)


class LinesSink(Sink):
    """Written before the report: the last line of a task counts."""

    name = "lines"
    order = "before_report"
    settings_groups = (LinesSettings,)

    def __init__(self, services: Services) -> None:
        self._path = services.settings[LinesSettings].path

    async def write(self, record: Record) -> None:
        self._save(self._load() | {record.task_id: record.body.decode()})

    async def discard(self, record: Record) -> None:
        self._save({task_id: body for task_id, body in self._load().items() if task_id != record.task_id})

    def _load(self) -> dict[str, str]:
        return dict(json.loads(line) for line in self._path.read_text().splitlines()) if self._path.exists() else {}

    def _save(self, lines: dict[str, str]) -> None:
        self._path.write_text("".join(json.dumps(line) + "\n" for line in lines.items()))
