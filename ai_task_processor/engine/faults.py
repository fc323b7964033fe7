"""The boundary around components: a mistake in one of them does not end the daemon.

Each call of a component that must not fail is made inside ``Faults.of``. What it raises is logged when it begins,
changes and ends, and is shown in ``/ready`` or ``why_idle`` while it lasts. The caller goes on with a default.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from ai_task_processor.core.component import Problem
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import AiTaskProcessorError, RemoteError
from ai_task_processor.core.plugins import PACKAGE, Plugin
from ai_task_processor.core.ports import TaskSource
from ai_task_processor.engine.guard import CALL_S, RAISED, raise_cancellation
from ai_task_processor.models.task import Failure, Receipt
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger

#: The methods whose failure is no problem of its own: ``claim`` is the problem of the last poll, the others are
#: called seldom, so that a failure would be shown long after it.
_LOGGED: Final = frozenset({"claim", "reload", "wake", "release", "prepare", "settle", "resume"})
#: the methods without which tasks are processed nevertheless
_SPARED: Final = frozenset({"status", "wait"})

T = TypeVar("T")

log = get_logger(__name__)


class Nonsense(AiTaskProcessorError):
    """A component returned something that its port does not allow. The message contains no value."""


class Faults:
    """The failures of components now. ``name`` returns the plug-in that an object comes from."""

    def __init__(self) -> None:
        self._plugins: dict[int, Plugin] = {}
        #: by object and method: the latest failure, and its origin in words
        self._noted: dict[tuple[int, str], tuple[Condition, str]] = {}

    def name(self, plugin: Plugin, *parts: object) -> None:
        """These objects come from a plug-in: a component, or what it consists of. They live as long as the process."""
        self._plugins |= dict.fromkeys(map(id, parts), plugin)

    def about(self, component: object) -> Mapping[str, str]:
        """The component and its package, for a log line."""
        if plugin := self._plugins.get(id(component)):
            return {"component": plugin.entry_point.name, "package": plugin.package}
        return {"component": str(getattr(component, "name", "") or type(component).__name__), "package": PACKAGE}

    def of(self, component: object, method: str) -> "_Call":
        """A ``with`` block that calls a method: whatever it raises is noted, and only a cancellation is raised."""
        return _Call(self, component, method)

    def ask(self, kind: type[T], component: object, method: str) -> list[T]:
        """What a method returns: a collection of this kind; empty when it fails."""
        with self.of(component, method):
            return all_of(kind, getattr(component, method)())
        return []

    def note(self, component: object, method: str, error: BaseException | None) -> str:
        """The result of the latest call: an error, or None when it succeeded. Returns the failure in one sentence."""
        key = id(component), method
        if error is None and key not in self._noted:
            return ""
        about = self.about(component)
        origin = str(self._plugins.get(id(component), f"the component {about['component']!r}"))
        condition = Condition("component.failed", "component.restored", logging.ERROR)
        condition, _ = self._noted.setdefault(key, (condition, f"{origin} fails in {method}"))
        reason = str(error) if isinstance(error, AiTaskProcessorError) else type(error).__name__
        condition.note(reason if error else None, **about, method=method, exc_info=error)
        return f"{origin} fails in {method} ({reason})"

    @property
    def problems(self) -> list[Problem]:
        """The failures that last."""
        problems = [
            Problem("component_failed", f"{words} ({condition.reason})", ready=method in _SPARED)
            for (_, method), (condition, words) in self._noted.items()
            if condition.reason is not None and method not in _LOGGED
        ]
        return list(dict.fromkeys(problems))  # one plug-in may provide both embeddings and chat

    async def release(
        self, source: TaskSource, receipt: Receipt, delay_s: float, failure: Failure | None = None
    ) -> None:
        """Release a task. It counts as released when that fails: it stays pending upstream, or its claim expires."""
        with self.of(source, "release"):
            try:
                with Deadline(CALL_S):
                    await source.release(receipt, delay_s, failure)
            except (RemoteError, TimeoutError) as error:
                log.warning("task.not_released", task_id=receipt.id, exc_info=error)


@dataclass(slots=True)  # not frozen: one is made several times for each task
class _Call:
    faults: Faults
    component: object
    method: str

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if error is not None:
            if not isinstance(error, RAISED):
                return False
            raise_cancellation(error)
        self.faults.note(self.component, self.method, error)
        return True


def all_of(kind: type[T], found: object) -> list[T]:
    """What a component returned, if it is a collection of these. Raises ``Nonsense``."""
    if not isinstance(found, Iterable):
        raise Nonsense(f"it returned {type(found).__name__} instead of a list of {kind.__name__}")
    values = list(found)
    for value in values:
        if not isinstance(value, kind):
            raise Nonsense(f"it returned {type(value).__name__} instead of {kind.__name__}")
    return values
