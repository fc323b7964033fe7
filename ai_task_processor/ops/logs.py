"""Structured logs: one chain of processors for our loggers, the standard library's and a crash.

What leaves here carries no secret (all strings are masked, keys and tracebacks included), no local
variable and no message of a foreign exception: a plug-in's ``ValueError(f"cannot parse {text}")``
would carry user text. Messages of ``AiTaskProcessorError`` are ours and stay.

The events, as ``noun.verb_in_past``; callers add the details as keywords::

    settings.warned         a setting is valid but may be a mistake
    settings.rejected       settings that were read again for replaced secrets are not valid: the old secrets stay
    secret.replaced         a secret has changed and is used from now on
    tls.replaced            CA_BUNDLE or the client certificate has changed: new connections use it
    tls.rejected            CA_BUNDLE or the client certificate has changed and cannot be used: the former one stays
    plugin.loaded           an installed package added a processor
    plugin.failed           a processor raised outside of ``process``
    component.failed        a method of a component raised or returned a wrong value: the daemon goes on without it
    component.restored      that method works again
    component.crashed       the ``run`` of a component failed or ended: the daemon ends
    daemon.started          the daemon polls from now on
    daemon.paused           an operator has paused the daemon, now or before this start: nothing is claimed
    daemon.resumed          an operator has ended the pause
    log.level_set           another level is logged from now on, until the next start at the latest
    daemon.hung_up          SIGHUP: secrets are read again, what was paused is tried
    daemon.stopped          the daemon ended after a signal
    daemon.crashed          an unhandled exception, in the main or another thread
    exception.caught        an exception in a callback, asyncio task or destructor that nothing awaits
    poll.failed             the first of several failed polls
    poll.recovered          the first good poll after failed ones
    task.dropped            the due time of a listed task is too long ago: there is no reminder
    poll.cut                the list ended too early: the tasks before its end are used
    record.skipped          a listed record that cannot be used
    type.skipped            tasks are listed whose type no processor here takes: they stay pending
    type.gone               no task of that type is listed any more
    task.completed          a task ended with a result
    task.failed             a task ended failed: the task itself is at fault
    task.rejected           the parameters of a task cannot be used: it fails
    task.released           a task was given back and runs again after a delay
    task.taken              a task was marked in_progress and turned out to be gone or final: it is not processed
    task.state_repaired     a mark without an answer may have overwritten the outcome: the state was sent again
    task.attempt_failed     an attempt failed, with this error
    task.crashed            a bug of the daemon in one task
    task.isolated           a task was in flight at two crashes and runs isolated now
    task.not_released       a source failed to release an unfinished task: its claim must expire
    task.revoked            a claim was lost or cancelled upstream: its task was stopped
    push.connected          messages of the task API end the wait for the next poll
    push.disconnected       no messages arrive: polls come in their intervals, and the connection is tried again
    claims.not_renewed      claims cannot be renewed at the source
    claims.renewed          claims can be renewed again
    claims.reaped           the owner of these tasks has died: they are pending again
    lease.failed            no session shows that this process lives: nothing is claimed, others may take its tasks
    lease.restored          there is such a session again
    queue.failed            Redis cannot be used: tasks are found in PostgreSQL, and the queues are repaired later
    queue.restored          Redis can be used again
    queue.repaired          the queues in Redis did not have every queued task, or had ids of others
    queue.unsent            (debug) the daemon ends while Redis does not know all changes
    task.cancelled          a task was cancelled before it was started
    task.deduplicated       an equal task was completed before: this one has its artifacts, and was not started
    task.retried            a task failed and is queued again, because it has retries left
    task.killed             a task took longer than any may: it fails
    artifact.rejected       an artifact is larger than allowed: its task fails
    index.missed            each claim reads a long table, because an index is missing
    task.quarantined        three isolated runs of a task killed the process: it is not started again
    recovery.started        tasks were in flight when a process died, and so many of them wait to run isolated
    step.not_stored         an answer inside a task is too large to be stored: after a crash its call is made again
    steps.failed            the answers inside tasks cannot be stored or read
    steps.restored          the answers inside tasks can be stored and read again
    result.lost             disk and process failed together: put the task back to pending
    text.set_aside          a model fails for one text and serves others: the text is retried after growing delays
    call.given_up           a model call hangs while later ones are served: its texts are sent again in parts
    cost.not_counted        MODEL_PRICES has no price for a model: its calls are missing from the cost
    model.crashed           a bug of the daemon or of a provider in one model call
    delivery.acknowledged   the task API has the outcome
    delivery.deferred       an outcome was not acknowledged: it is reported again later
    delivery.refused        an outcome is refused for good: a dead letter
    delivery.expired        an outcome is of no use any more: it is deleted, even where a sink lacks it
    delivery.lost           another worker has the claim by now: the result is not needed
    delivery.unverified     the task API acknowledges without naming task and state
    delivery.held           the source asks for a pause: nothing is reported until it ends
    delivery.resumed        outcomes are reported again
    delivery.crashed        a bug of the daemon in one delivery
    sink.failed             a sink did not take a result: it is written again later
    sink.disabled           SINKS names a sink whose address is not set: it receives nothing
    sink.restored           the sink takes results again
    mail.skipped            there is no mail for a result, because no address is known
    sink.not_discarded      a sink still has a result that the source has refused
    outbox.awaited          another daemon holds the outbox: this one waits
    outbox.recovered        outcomes of an earlier run were found
    outbox.failed           a commit failed
    outbox.restored         commits succeed again
    outbox.migrated         the outbox had the schema of an earlier release and is converted
    outbox.foreign          the outbox holds results of a source that is not selected: they stay, and are not delivered
    outbox.salvaged         the outbox was damaged and set aside: what could be read was copied
    outbox.requested        an operator's retry or drop was carried out
    token.refreshed         there is a new access token
    token.failed            a token request failed
    token.refused           the task API answered 401: the request is repeated with another token
    token.accepted          a token was valid for its whole life again
    breaker.opened          a remote counts as down
    breaker.closed          a remote that was down answers again
    remote.paused           a remote asked for a pause, or an operator must act
    remote.resumed          a paused remote is called again
    request.failed          a bug of the daemon in an answer of the ops port
    drain.started           nothing new is claimed
    drain.cut               these tasks were stopped at the end of the grace period
    drain.finished          everything that ran has ended
    drain.forced            the process ended at once
    traces.failed           the receiver of traces takes none: spans are dropped, and nothing waits for it
    traces.restored         it takes them again
    log.failed              a line of another library could not be rendered
    log.dropped             the log was not read for a while: so many lines are missing
"""

import asyncio
import contextlib
import errno
import itertools
import json
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TextIO, cast

# structlog would load rich (three megabytes) for tracebacks in colour, which are not used.
_rich = cast("ModuleType | None", sys.modules.setdefault("rich", None))  # type: ignore[arg-type]  # forbids the import
import structlog  # noqa: E402 - as above
from structlog.typing import EventDict, FilteringBoundLogger, Processor  # noqa: E402 - as above

from ai_task_processor.core import codec  # noqa: E402 - as above
from ai_task_processor.core.errors import AiTaskProcessorError  # noqa: E402 - as above
from ai_task_processor.ops.log_writer import LineWriter  # noqa: E402 - as above
from ai_task_processor.ops.masking import MASK, MIN_SECRET, SENSITIVE_KEY, Masker  # noqa: E402 - as above
from ai_task_processor.ops.recent import LEVELS, RecentErrors  # noqa: E402 - as above
from ai_task_processor.ops.status import RecentError  # noqa: E402 - as above

if _rich is None:
    del sys.modules["rich"]

#: the end of the process waits this long for the reader of the log, seconds
FLUSH_S = 0.5
MAX_TEXT = 2_000
MAX_TRACEBACK = 10_000  # the one longer value: a chain of causes with its frames
MAX_ITEMS = 30
MAX_DEPTH = 3
MAX_EXCEPTIONS = 20
MAX_FRAMES = 30
#: events and fields that are cached
MAX_HEADS = 512
#: their INFO prints whole URLs, their DEBUG headers and bodies
QUIET = frozenset({"asyncio", "authlib", "httpcore", "httpcore2", "httpx", "httpx2", "openai",
                   "opentelemetry", "pydantic_settings", "requests", "urllib3"})  # fmt: skip

_EVENT, _FIELD = re.compile(r"[a-z_]{1,40}\.[a-z_]{1,40}"), re.compile(r"[a-z_]{1,40}")
_HEAD = frozenset({"timestamp", "level", "logger", "exc_info", "stack_info"})
_TASK: ContextVar[str | None] = ContextVar("task_id", default=None)
#: the id of the trace that lines belong to, while a span is active
TRACE: ContextVar[str | None] = ContextVar("trace_id", default=None)
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


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


@contextlib.contextmanager
def task_context(task_id: str) -> Iterator[None]:
    """Every line that is logged inside carries this ``task_id``."""
    before = _TASK.set(task_id)
    try:
        yield
    finally:
        _TASK.reset(before)


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
        _name_task,
        _arrange,
        _explain,
        _Cleaner(mask),
        _remember,
        render,
    ]
    handler = _Handler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=chain))
    handler.addFilter(_is_wanted)
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    shortcut: list[Processor] = [_Shortcut(handler, mask)] if json_lines else []
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


def _handlers() -> "list[_Handler]":
    return [handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler)]


def install_crash_hooks() -> Callable[[object, dict[str, Any]], None]:
    """Make a crash a log line like any other; the result is for ``loop.set_exception_handler``.

    To be called after ``configure``.
    """
    log = get_logger(__name__)

    def thread_crashed(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            log.critical("daemon.crashed", thread=getattr(args.thread, "name", None), exc_info=args.exc_value)

    def loop_caught(_loop: object, context: dict[str, Any]) -> None:
        # The rest of asyncio's message is the repr of an exception, or of a callback with its arguments.
        message = re.split(r"[(<:]", str(context.get("message", "")), maxsplit=1)[0].strip()
        task = context.get("task") or context.get("future")
        name = task.get_name() if isinstance(task, asyncio.Task) else None
        log.error("exception.caught", message=message, task=name, exc_info=context.get("exception"))

    sys.excepthook = lambda _type, error, _trace: log.critical("daemon.crashed", exc_info=error)
    threading.excepthook = thread_crashed
    sys.unraisablehook = lambda args: log.error("exception.caught", exc_info=args.exc_value)
    return loop_caught


class _Handler(logging.Handler):
    """Writes a line whatever it contains: logging never raises, and never shows a secret."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            self._writer: LineWriter | None = LineWriter(stream.fileno(), self._notice)
        except (OSError, ValueError, AttributeError):
            self._writer = None  # a stream in memory

    def format(self, record: logging.LogRecord) -> str:
        try:
            line = super().format(_without_exceptions(record))
        except Exception:  # noqa: BLE001  # boundary: other libraries' arguments need not fit their own message
            about = {"name": record.name, "levelno": record.levelno, "levelname": record.levelname}
            line = super().format(logging.makeLogRecord({**about, "msg": "log.failed"}))
        return line

    def emit(self, record: logging.LogRecord) -> None:
        # Logging must not raise, and the standard library would print the record's arguments.
        with contextlib.suppress(Exception):
            self._write(self.format(record) + "\n")

    def write(self, line: str) -> None:
        """Write a line that is rendered already."""
        with self.lock, contextlib.suppress(Exception):  # type: ignore[union-attr]  # a handler in use has a lock
            self._write(line)

    def _write(self, line: str) -> None:
        data = line.encode(self._encoding, "backslashreplace")
        if self._writer is None:
            self._stream.write(data.decode(self._encoding))
            self._stream.flush()
        else:
            self._writer.write(data)

    @property
    def dropped(self) -> int:
        return 0 if self._writer is None else self._writer.dropped

    def drain(self, timeout_s: float) -> None:
        """Wait for the thread to write its lines."""
        if self._writer is not None:
            self._writer.flush(timeout_s)

    def flush(self) -> None:
        """What the standard library calls at the end of the process."""
        self.drain(FLUSH_S)

    def _notice(self, lost: int) -> bytes:
        about = {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "_logger": None}
        event = {"event": "log.dropped", "lines": lost}
        line = self.format(logging.makeLogRecord({**about, "_name": "warning", "msg": event}))
        return f"{line}\n".encode(self._encoding, "backslashreplace")


class _Shortcut:
    """The fast path of logging: renders events of the daemon whose values are plain and need no cleaning.

    The whole chain takes ten times as long, and a settled task logs a line. Events with anything else (a container, an
    exception in flight, an escape, a long text, anything that may be a secret) go through the chain.
    """

    def __init__(self, handler: _Handler, mask: Masker) -> None:
        self._handler = handler
        self._mask = mask
        self._heads: dict[tuple[str, str, object], str | None] = {}
        self._plain_keys: dict[str, bool] = {}

    def __call__(self, logger: logging.Logger, method: str, event: EventDict) -> EventDict:
        about = logger.name, method, event.get("event")
        head = self._heads.get(about)
        if head is None or sys.exc_info()[1] is not None:
            if len(self._heads) < MAX_HEADS and about not in self._heads:
                self._heads[about] = self._head(*about)
            return event
        fields = dict(_name_task(logger, method, event))
        del fields["event"]
        if len(fields) < MAX_ITEMS and (text := self._rendered(fields)) is not None:
            second, rest = divmod(time.time(), 1.0)
            timestamp = f"{_second(int(second))}.{int(rest * 1000):03}Z"
            self._handler.write(f'{{"timestamp":"{timestamp}",{head}{text}\n')
            if method in LEVELS:
                names = {"level": method, "logger": logger.name, "event": about[2]}
                _recent.note({**fields, **names, "timestamp": timestamp})
            raise structlog.DropEvent
        return event

    def _head(self, name: str, method: str, event: object) -> str | None:
        """The beginning of every line of this event; None when it is no event of the daemon."""
        if not isinstance(event, str) or not _EVENT.fullmatch(event) or self._mask.may_mask(f"{name} {event}"):
            return None
        return f'"level":"{method}","logger":{json.dumps(name)},"event":"{event}"'

    def _rendered(self, fields: Mapping[str, object]) -> str | None:
        """The rest of the line; None when there is anything to clean."""
        for key, value in fields.items():
            plain = value is None or isinstance(value, int | str) or (isinstance(value, float) and isfinite(value))
            if not plain or not self._is_plain(key):
                return None
        try:
            text = codec.line(fields).decode()
        except (TypeError, ValueError):
            return None
        plain = len(text) < MAX_TEXT and text.isascii() and text.isprintable() and "\\" not in text
        clean = plain and not self._mask.may_mask(text)
        return ("," + text[1:] if fields else "}") if clean else None

    def _is_plain(self, key: str) -> bool:
        plain = self._plain_keys.get(key)
        if plain is None:
            plain = _FIELD.fullmatch(key) is not None and key not in _HEAD and not SENSITIVE_KEY.fullmatch(key)
            if len(self._plain_keys) < MAX_HEADS:
                self._plain_keys[key] = plain
        return plain


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """Cached: most lines are of the same second as the one before."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]


def _without_exceptions(record: logging.LogRecord) -> logging.LogRecord:
    """``logger.error("failed: %s", error)`` must not reach the message of the exception."""
    args = record.args if isinstance(record.args, tuple) else ()
    if not any(isinstance(part, BaseException) for part in (record.msg, *args)):
        return record
    copy = logging.makeLogRecord(record.__dict__)
    copy.msg, *described = (
        _describe(part) if isinstance(part, BaseException) else part for part in (record.msg, *args)
    )
    copy.args = tuple(described)
    return copy


def _is_wanted(record: logging.LogRecord) -> bool:
    # Levels are not enough: a library may set its own when it is imported later (OPENAI_LOG does).
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] not in QUIET


def _name_task(_logger: object, _method: str, event: EventDict) -> EventDict:
    task_id = _TASK.get()
    if task_id is not None:
        event.setdefault("task_id", task_id)
    trace_id = TRACE.get()
    if trace_id is not None:
        event.setdefault("trace_id", trace_id)
    return event


def _arrange(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Time, level, logger and event first, from the record, so that no field can pretend to be one of them."""
    record: logging.LogRecord = event.pop("_record")
    del event["_from_structlog"]
    time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = {"timestamp": time, "level": record.levelname.lower(), "logger": record.name, "event": event.pop("event")}
    return {**head, **event, **head}


def _remember(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Keep an event of the daemon for ``/status``. The text of another library could have anything in it."""
    if event["level"] in LEVELS and _EVENT.fullmatch(str(event["event"])):
        _recent.note(event)
    return event


def _explain(_logger: object, _method: str, event: EventDict) -> EventDict:
    """``exc_info`` becomes ``exception``; the message of an exception in flight is removed from the event's text."""
    event.pop("stack_info", None)
    given, in_flight = event.pop("exc_info", None), sys.exc_info()[1]
    error = given[1] if isinstance(given, tuple) else given if isinstance(given, BaseException) else in_flight
    seen: list[BaseException] = []
    lines = list(_trace(error, seen))
    if given and lines:
        event["exception"] = "\n".join(lines)
    if isinstance(event["event"], str):
        for each in seen:
            for text in (_shown(each, repr), _shown(each, str)):
                if len(text) >= MIN_SECRET:
                    event["event"] = event["event"].replace(text, _describe(each))
    return event


def _trace(error: BaseException | None, seen: list[BaseException], lead: str = "") -> Iterator[str]:
    """Types and frames of an exception, its members and its causes. ``seen`` collects them and stops cycles."""
    if error is None or len(seen) >= MAX_EXCEPTIONS or any(error is other for other in seen):
        return
    seen.append(error)
    yield lead + _describe(error)
    frames = deque(traceback.walk_tb(error.__traceback__), maxlen=MAX_FRAMES)
    for frame, line in frames:
        code = frame.f_code
        yield f"  {'/'.join(Path(code.co_filename).parts[-3:])}:{line}:{code.co_name}"
    if isinstance(error, BaseExceptionGroup):
        for member in error.exceptions:
            yield from _trace(member, seen, "with ")
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    yield from _trace(cause, seen, "caused by ")


def _describe(error: BaseException) -> str:
    """The type, and a message that is known to be harmless: the daemon's own, or the name of an OS error."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(error, AiTaskProcessorError):
        return f"{name}: {_shown(error, str)}"
    if isinstance(error, OSError) and isinstance(error.errno, int) and error.errno in errno.errorcode:
        return f"{name}: {errno.errorcode[error.errno]}"
    return name


def _shown(value: object, how: Callable[[object], str]) -> str:
    try:
        return how(value)
    except Exception:  # noqa: BLE001  # boundary: a stranger's __str__ and __repr__ may do anything
        return f"<{type(value).__name__}>"


def _as_text(value: object) -> str:
    """A value of an event as text."""
    if isinstance(value, BaseException):
        return _describe(value)
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, datetime):
        return value.isoformat()
    return _shown(value, str)


class _Cleaner:
    """The last step before rendering: makes every value plain, masked, printable and bounded."""

    def __init__(self, mask: Masker) -> None:
        self._mask = mask
        self._key = lru_cache(maxsize=512)(self._key_once)

    def __call__(self, _logger: object, _method: str, event: EventDict) -> EventDict:
        trace = event.pop("exception", None)
        clean = self._mapping(event, MAX_DEPTH)
        if trace is not None:
            clean["exception"] = self._text(_as_text(trace), MAX_TRACEBACK)
        return clean

    def _mapping(self, mapping: Mapping[Any, object], depth: int) -> dict[str, object]:
        clean = {}
        for given, value in itertools.islice(mapping.items(), MAX_ITEMS):
            key, sensitive = self._key(_as_text(given))
            clean[key] = MASK if sensitive else self._value(value, depth - 1)
        return clean

    def _key_once(self, key: str) -> tuple[str, bool]:
        return self._text(key), SENSITIVE_KEY.fullmatch(key) is not None

    def _value(self, value: object, depth: int) -> object:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Mapping | list | tuple | set | frozenset):
            return self._container(value, depth)
        text = _as_text(value)
        clean = self._text(text)
        # neither a secret of digits nor NaN, which is no JSON, stays a number
        return value if isinstance(value, int | float) and clean == text and text[-1:].isdigit() else clean

    def _container(self, value: Mapping[Any, object] | Collection[object], depth: int) -> object:
        if depth <= 0:
            return f"<{type(value).__name__} of {len(value)}>"
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        items = [self._value(item, depth - 1) for item in itertools.islice(value, MAX_ITEMS)]
        return items if len(value) <= MAX_ITEMS else [*items, f"… ({len(value)} items)"]

    def _text(self, text: str, limit: int = MAX_TEXT) -> str:
        text = self._mask(text)
        if len(text) > limit:
            text = f"{text[:limit]}… ({len(text)} characters)"
        return text if text.isprintable() else _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
