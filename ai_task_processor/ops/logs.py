"""Structured logs: one chain of processors for our loggers, the standard library's and a crash.

What leaves here carries no secret (all strings are masked, keys and tracebacks included), no local
variable and no message of a foreign exception: a plug-in's ``ValueError(f"cannot parse {text}")``
would carry user text. Messages of ``AiTaskProcessorError`` are ours and stay.

The events are in ``log_events``.
"""

import logging
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from types import ModuleType
from typing import Literal, TextIO, cast

# structlog would load rich (three megabytes) for tracebacks in colour, which are not used.
_rich = cast("ModuleType | None", sys.modules.setdefault("rich", None))  # type: ignore[arg-type]  # forbids the import
import structlog  # noqa: E402 - as above
from structlog.typing import EventDict, FilteringBoundLogger, Processor  # noqa: E402 - as above

from ai_task_processor.ops.log_context import name_task  # noqa: E402 - as above
from ai_task_processor.ops.log_exceptions import explain  # noqa: E402 - as above
from ai_task_processor.ops.log_fast_path import EVENT, FastPath  # noqa: E402 - as above
from ai_task_processor.ops.log_handler import FLUSH_S, Handler  # noqa: E402 - as above
from ai_task_processor.ops.log_values import Cleaner  # noqa: E402 - as above
from ai_task_processor.ops.masking import Masker  # noqa: E402 - as above
from ai_task_processor.ops.recent import LEVELS, RecentErrors  # noqa: E402 - as above
from ai_task_processor.ops.status import RecentError  # noqa: E402 - as above

if _rich is None:
    del sys.modules["rich"]

#: their INFO prints whole URLs, their DEBUG headers and bodies
QUIET = frozenset({"asyncio", "authlib", "httpcore", "httpcore2", "httpx", "httpx2", "openai",
                   "opentelemetry", "pydantic_settings", "requests", "urllib3"})  # fmt: skip

_loggers: dict[str, FilteringBoundLogger] = {}


def get_logger(name: str) -> FilteringBoundLogger:
    """A logger for a module; may be called at import, what ``configure`` decides applies at each use."""
    return _loggers.setdefault(name, structlog.get_logger(name))


_recent = RecentErrors()


def recent_errors() -> Sequence[RecentError]:
    """The last warnings and errors of the daemon, masked, the newest first."""
    return _recent.latest(datetime.now(UTC))


class _Masks:
    """The masker of the process, set by ``configure``."""

    masker = Masker(())


_masks = _Masks()


def masked(text: str) -> str:
    """A text with secrets masked, for values that are stored or served."""
    return _masks.masker(text)


def learn(secrets: Iterable[str]) -> None:
    """Mask these, too, from now on: secrets are replaced while the process runs."""
    _masks.masker.learn(secrets)


def _forget() -> None:
    """Assemble the loggers anew: structlog caches them for ever."""
    for logger in _loggers.values():
        vars(logger).pop("bind", None)


def reset() -> None:
    """As before the first ``configure``, for tests that come after others."""
    structlog.reset_defaults()
    _forget()


def configure(
    *,
    level: str,
    format: Literal["auto", "json", "console"],  # noqa: A002  # the word of LOG_FORMAT
    secrets: Iterable[str],
    stream: TextIO | None = None,
) -> None:
    """Send every log line of the process through one chain to ``stream`` (stderr by default).

    Replaces the handlers of the root logger. May be called again. ``auto`` is JSON unless the stream
    is a terminal.
    """
    stream = stream or sys.stderr
    terminal = stream.isatty()
    render: Processor = structlog.processors.JSONRenderer(separators=(",", ":"))
    json_lines = True
    if format == "console" or (format == "auto" and terminal):
        colours = terminal and not os.environ.get("NO_COLOR")
        render = structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback)
        json_lines = False
    mask = _masks.masker = Masker(secrets)
    _recent.clear()
    chain: list[Processor] = [
        name_task,
        _arrange,
        explain,
        Cleaner(mask),
        _remember,
        render,
    ]
    handler = Handler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=chain))
    handler.addFilter(_is_wanted)
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    shortcut: list[Processor] = [FastPath(handler, mask, _recent)] if json_lines else []
    structlog.configure(
        processors=[*shortcut, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    set_level(level)


def set_level(name: str) -> None:
    """Log from this level on, at once; after ``configure``."""
    number = logging.getLevelNamesMapping()[name.upper()]
    logging.getLogger().setLevel(number)
    for handler in _handlers():
        handler.setLevel(number)
    for quiet in QUIET:
        logging.getLogger(quiet).setLevel(max(number, logging.WARNING))
    structlog.configure(**{**structlog.get_config(), "wrapper_class": structlog.make_filtering_bound_logger(number)})
    _forget()


def level() -> str:
    """The least severe level that is logged."""
    return logging.getLevelName(logging.getLogger().level)


def flush(timeout_s: float = FLUSH_S) -> None:
    """Wait until every line is written, but no longer than this. For the end of the process."""
    for handler in _handlers():
        handler.drain(timeout_s)


def dropped() -> int:
    """Lines that were lost, because the log was not read or could not be written."""
    return sum(handler.dropped for handler in _handlers())


def _handlers() -> list[Handler]:
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, Handler)]


def _is_wanted(record: logging.LogRecord) -> bool:
    # Levels are not enough: a library may set its own when it is imported later (OPENAI_LOG does).
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in QUIET


def _arrange(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Time, level, logger and event first, from the record, so that no field can pretend to be one of them."""
    record: logging.LogRecord = event.pop("_record")
    del event["_from_structlog"]
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"timestamp": time, "level": record.levelname.lower(), "logger": record.name, "event": event.pop("event")}
    return {**head, **event, **head}


def _remember(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Keep an event of the daemon for ``/status``. The text of another library could have anything in it."""
    if event["level"] in LEVELS and EVENT.fullmatch(str(event["event"])):
        _recent.note(event)
    return event
