"""What tests of several folders use."""

import random
import re
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.component import Component
from ai_task_processor.core.plugins import groups_of
from ai_task_processor.core.ports import Outbox, Standing, TaskSource, Want
from ai_task_processor.core.reading import load_settings
from ai_task_processor.engine.daemon import alive as running
from ai_task_processor.engine.faults import Faults
from ai_task_processor.models.task import Claim, Failure, Outcome, Receipt
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.net.services import Services
from ai_task_processor.ops.metrics import Metrics

T = TypeVar("T")
#: what lines about settings say in brackets: value, origin and default
_ORIGIN = re.compile(r" \(('[^']*'|set|\d+ characters) in (the environment|[^()]+, line \d+)(; default [^()]+)?\)")


def without_origin(line: str) -> str:
    """A line about a setting without its value, origin and default."""
    return _ORIGIN.sub("", line)


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The answer of a coroutine that does not suspend."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        answer: T = ended.value
        return answer
    coroutine.close()
    raise AssertionError("it suspends")


def standing(outbox: Outbox, task_id: str, fingerprint: str | None = None) -> Standing | None:
    """What stands for a task in an outbox that answers from memory; with a fingerprint: for this content."""
    held = at_once(outbox.held([task_id])).get(task_id)
    if held is None or (held.standing != "in_outbox" and fingerprint not in (None, held.fingerprint)):
        return None
    return held.standing


class StubSource(TaskSource):
    """For tests that need only a part of a source."""

    name = "aletheia"

    async def claim(self, want: Want) -> Sequence[Claim]:
        raise NotImplementedError

    async def report(self, receipt: Receipt, outcome: Outcome) -> None:
        raise NotImplementedError

    async def release(self, receipt: Receipt, delay_s: float, failure: Failure | None = None) -> None:
        raise NotImplementedError


C = TypeVar("C", bound=Component)


@asynccontextmanager
async def alive(component: C) -> AsyncIterator[C]:
    """A component that is running."""
    async with running(component, Faults()):
        yield component


def services(environ: Mapping[str, str], *components: type[Component], **changes: Any) -> Services:
    """What these components are built with, with settings from this environment alone."""
    settings = load_settings(environ, None, groups=list(groups_of(components)))
    given: dict[str, Any] = {
        "clock": SystemClock(),
        "metrics": Metrics(version="0", provider="none"),
        "rng": random.Random(1),
        "source": "aletheia",
        "lost": lambda _: None,
    }
    return Services(settings=settings, secrets=Secrets(settings), **{**given, **changes})
