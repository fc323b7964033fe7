"""A processor's context for a unit test."""

from collections.abc import Iterable, Mapping
from typing import Any

from ai_task_processor.core.clock import SystemClock
from ai_task_processor.core.groups import Group
from ai_task_processor.core.reading import load_settings
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.context import ProcessorContext


def processor_context(
    environ: Mapping[str, str] | None = None, groups: Iterable[type[Group]] = (), **fields: Any
) -> ProcessorContext:
    """``environ``: all that the settings of ``groups`` are read from. ``fields`` replace the usual ones."""
    settings = load_settings(environ or {}, None, groups=list(groups))
    usual = {"clock": SystemClock(), "metrics": Metrics(version="0", provider="none"), "wait_s": 60.0}
    return ProcessorContext(settings=settings, **{**usual, **fields})
