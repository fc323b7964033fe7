"""A stranger's source: tasks are JSON files in a folder, claimed by leases."""

import asyncio
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ai_task_processor.core.component import Problem
from ai_task_processor.core.errors import Rejected, Unsent
from ai_task_processor.core.groups import Group, setting
from ai_task_processor.core.ports import Backlog, TaskSource, Want
from ai_task_processor.models.task import Claim, Completed, Failed, Failure, Outcome, Receipt, Task
from ai_task_processor.net.services import Services


class FolderSettings(Group):
    """Where the tasks are."""

    folder: Path = setting("ACME_FOLDER", "the folder of the task files", ...)
    lease_s: float = setting("ACME_LEASE_SECONDS", "seconds until a claim ends that is not renewed", "2")


class FolderSource(TaskSource):
    """``NAME.json`` is a pending task, ``NAME.lease`` its claim, ``NAME.done`` its outcome."""

    name = "folder"
    claims = "exclusive"
    settings_groups = (FolderSettings,)

    def __init__(self, services: Services) -> None:
        settings = services.settings[FolderSettings]
        self._folder, self._clock = settings.folder, services.clock
        self._lease_s = settings.lease_s
        self.renew_every_s = settings.lease_s / 4
        self._deferred: dict[str, float] = {}
        self._seen = 0

    @property
    def backlog(self) -> Backlog:
        return Backlog(seen=self._seen, complete=True)

    def problems(self) -> Sequence[Problem]:
        return () if self._folder.is_dir() else (Problem("no_folder", f"{self._folder} is gone: make ACME_FOLDER"),)

    async def claim(self, want: Want) -> Sequence[Claim]:
        tasks = [self._task(path) for path in self._pending()]
        self._seen = len(tasks)
        reasons = await want.admission.refuse(tasks)
        claims: list[Claim] = []
        for task, reason in zip(tasks, reasons, strict=True):
            if len(claims) < want.limit and reason is None and (token := self._lease(task.id)):
                claims.append(Claim(task, Receipt(self.name, task.id, token)))
        return claims

    async def renew(self, receipts: Sequence[Receipt]) -> Collection[Receipt]:
        return [receipt for receipt in receipts if not self._lease(receipt.id, receipt.token)]

    def cancelled(self) -> Collection[Receipt]:
        return [Receipt(self.name, path.stem) for path in self._folder.glob("*.cancel")]

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        self._check()
        if not self._file(receipt, "json").exists():
            raise Rejected("gone")
        if self._file(receipt, "refuse").exists():
            raise Rejected("refused")
        owner = self._owner(receipt.id)
        if owner not in ("", receipt.token):
            raise Rejected("lost")
        match outcome:
            case Completed(result):
                told: Mapping[str, object] = {"state": "succeeded", "output": result.output}
            case Failed(failure):
                told = {"state": "failed", "code": failure.code}
            case _:
                told = {"state": "cancelled"}
        self._file(receipt, "done").write_text(json.dumps(told))
        self._file(receipt, "lease").unlink(missing_ok=True)

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:
        self._deferred[receipt.id] = self._clock.monotonic() + delay_s
        self._file(receipt, "lease").unlink(missing_ok=True)

    def _pending(self) -> list[Path]:
        self._check()
        now = self._clock.monotonic()
        files = sorted(self._folder.glob("*.json"))
        return [
            path
            for path in files
            if not path.with_suffix(".done").exists() and self._deferred.get(path.stem, 0.0) <= now
        ]

    def _check(self) -> None:
        if not self._folder.is_dir():
            raise Unsent(f"{self._folder} is gone")

    def _task(self, path: Path) -> Task:
        fields = json.loads(path.read_text())
        return Task(id=path.stem, type=fields["type"], content=fields["content"])

    def _owner(self, task_id: str) -> str:
        """Who holds a lease that is alive; empty when nobody does."""
        try:
            owner, until = (self._folder / f"{task_id}.lease").read_text().split()
        except (OSError, ValueError):
            return ""
        return owner if float(until) > self._clock.now().timestamp() else ""

    def _lease(self, task_id: str, token: str = "") -> str:
        """Take a lease, or renew that of ``token``; empty when somebody else has it."""
        owner = self._owner(task_id)
        if owner not in ("", token) or not (self._folder / f"{task_id}.json").exists():
            return ""
        token = token or secrets.token_hex(8)
        until = self._clock.now().timestamp() + self._lease_s
        (self._folder / f"{task_id}.lease").write_text(f"{token} {until}")
        return token

    def _file(self, receipt: Receipt, suffix: str) -> Path:
        return self._folder / f"{receipt.id}.{suffix}"

    async def run(self, ready: asyncio.Event) -> None:
        self._folder.mkdir(exist_ok=True)
        await super().run(ready)
