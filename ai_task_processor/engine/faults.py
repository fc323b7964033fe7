"""The boundary around components: a mistake in one of them does not end the daemon.

Each call of a component that is not allowed to fail is made inside ``Faults.of``. What it raises is logged when it
begins, changes and ends, and is shown in ``/ready`` or ``why_idle`` while it lasts. The caller goes on with a default.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

from ai_task_processor.core.component import Problem
from ai_task_processor.core.errors import AiTaskProcessorError
from ai_task_processor.core.plugins import PACKAGE, Plugin
from ai_task_processor.ops.logs import get_logger

#: The methods whose failure is a problem until a call succeeds, because they are called all the time, and whether the
#: daemon is ready nevertheless. Failures of the others are only logged, or are the problem of the last poll.
_LASTING: Final[Mapping[str, bool]] = {
    "problems": False,
    "backlog": False,
    "accepting": False,
    "apply_requests": False,
    "begin": False,
    "status": True,
    "wait": True,
}

T = TypeVar("T")

log = get_logger(__name__)


class Nonsense(AiTaskProcessorError):
    """A component returned something that its port does not allow. The message contains no value."""


class Faults:
    """The failures of components now. ``name`` tells which plug-in an object comes from."""

    def __init__(self) -> None:
        self._plugins: dict[int, Plugin] = {}
        self._failing: dict[tuple[int, str], tuple[str, str]] = {}

    def name(self, plugin: Plugin, *parts: object) -> None:
        """These objects come from a plug-in: a component, or what it consists of. They live as long as the process."""
        self._plugins.update({id(part): plugin for part in parts})

    def about(self, component: object) -> Mapping[str, str]:
        """The component and its package, for a log line."""
        plugin = self._plugins.get(id(component))
        name = plugin.entry_point.name if plugin else getattr(component, "name", "") or type(component).__name__
        return {"component": str(name), "package": plugin.package if plugin else PACKAGE}

    def of(self, component: object, method: str) -> "_Call":
        """A ``with`` block that calls a method: its exceptions and ``SystemExit`` are noted and not raised."""
        return _Call(self, component, method)

    def note(self, component: object, method: str, error: BaseException | None) -> str:
        """The result of the latest call: an error, or None when it succeeded. Returns the failure in one sentence."""
        if error is None and not self._failing:
            return ""
        key, about = (id(component), method), self.about(component)
        _, before = self._failing.get(key, ("", ""))
        if error is None:
            if self._failing.pop(key, None):
                log.info("component.restored", **about, method=method, after=before)
            return ""
        reason = str(error) if isinstance(error, AiTaskProcessorError) else type(error).__name__
        if reason != before:
            log.error("component.failed", **about, method=method, reason=reason, exc_info=error)
        origin = self._plugins.get(id(component)) or f"the component {about['component']!r}"
        sentence = f"{origin} fails in {method} ({reason})"
        self._failing[key] = sentence, reason
        return sentence

    @property
    def problems(self) -> list[Problem]:
        """The failures that last."""
        return [
            Problem("component_failed", sentence, ready=_LASTING[method])
            for (_, method), (sentence, _) in self._failing.items()
            if method in _LASTING
        ]


@dataclass(frozen=True, slots=True)
class _Call:
    faults: Faults
    component: object
    method: str

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, Exception | SystemExit | None):
            return False  # cancelled
        self.faults.note(self.component, self.method, error)
        return True


def all_of(kind: type[T], found: Iterable[object]) -> list[T]:
    """What a component returned, if it is a collection of these. Raises ``Nonsense``."""
    values = list(found) if isinstance(found, Iterable) else [found]
    for value in values:
        if not isinstance(value, kind):
            raise Nonsense(f"it returned {type(value).__name__} instead of {kind.__name__}")
    return values  # type: ignore[return-value]  # as was just checked
