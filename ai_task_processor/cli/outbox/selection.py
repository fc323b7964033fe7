"""Which records of an outbox a command is about. Pure."""

import argparse
from dataclasses import dataclass
from typing import Self

from ai_task_processor.stores.sqlite.inspection import Summary


@dataclass(frozen=True, slots=True)
class Selection:
    """The filters of a command; a record must pass all of them. ``reason``: in lower case."""

    dead: bool = False
    types: frozenset[str] = frozenset()
    reason: str = ""
    older_than_s: float | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Self:
        reason = (arguments.reason or "").lower()
        return cls(arguments.dead, frozenset(arguments.type), reason, arguments.older_than)

    @property
    def filters(self) -> bool:
        """Whether there is any filter."""
        return self.dead or bool(self.types) or bool(self.reason) or self.older_than_s is not None

    def takes(self, summary: Summary, now: float) -> bool:
        """``now``: seconds since the epoch."""
        return (
            not (self.dead and summary.state == "waiting")
            and (not self.types or summary.task_type in self.types)
            and (not self.reason or self.reason in (summary.reason or "").lower())
            and (self.older_than_s is None or now - summary.finished_at >= self.older_than_s)
        )
