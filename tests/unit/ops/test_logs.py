"""What leaves the log: structured, masked, without user text, whoever wrote it."""

import asyncio
import base64
import io
import json
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from urllib.parse import quote, quote_plus

import pytest

from ai_task_processor.core.errors import ConfigurationError, Transient
from ai_task_processor.ops import crash_hooks, log_events, log_exceptions, logs, masking
from ai_task_processor.ops.log_context import task_context

CLIENT_SECRET = 'p@ss/w:rd+ä"\\~'
API_KEY = "key-of-another-vendor-1"
WAKE_TOKEN = "8412973305"
KEY_LINE = "MIIEvQIBADANBgkqhkiG9w0B"
PRIVATE_KEY = f"-----BEGIN PRIVATE KEY-----\n{KEY_LINE}\nAQEFAASCBKcwggSjAgEAAoIB\n-----END PRIVATE KEY-----\n"
KNOWN = [CLIENT_SECRET, API_KEY, WAKE_TOKEN, PRIVATE_KEY]

JWT = "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJtMm0ifQ.c2lnbmF0dXJl"
IN_BASIC = base64.b64encode(f"client:{quote(CLIENT_SECRET, safe='')}".encode()).decode()

#: what is written, and what must not be readable afterwards
PLANTED = {
    "known, with characters that JSON and URLs escape": (f"secret={CLIENT_SECRET}", CLIENT_SECRET),
    "known, in the middle of a word": (f"x{API_KEY}y", API_KEY),
    "known, percent-encoded": (f"a={quote(CLIENT_SECRET, safe='')}&b=1", quote(CLIENT_SECRET, safe="")),
    "known, percent-encoded in lower case": (quote(CLIENT_SECRET, safe="").lower(),) * 2,
    "known, inside base64": (IN_BASIC, IN_BASIC[12:-2]),
    "known, digits only": (WAKE_TOKEN, WAKE_TOKEN),
    "known, one line of a private key": (f"read {KEY_LINE}", KEY_LINE),
    "unknown bearer": ("Authorization: Bearer ory_at_9fJ2.k-3x", "ory_at_9fJ2.k-3x"),
    "unknown basic": ("authorization=basic bTJtOnNlY3JldA==", "bTJtOnNlY3JldA"),
    "unknown OpenAI key": ("Incorrect API key provided: sk-proj-4f6Tq_0-zz.", "sk-proj-4f6Tq_0-zz"),
    "unknown password of a URL": ("http://proxyuser:pr0xyp@ss@proxy.internal:3128/", "pr0xyp@ss"),
    "unknown JWT": (f"got {JWT}", JWT.split(".")[1]),
    "unknown, in a form": ("grant_type=x&client_secret=t0ps3cr3t&scope=y", "t0ps3cr3t"),
    "unknown, in JSON": ('{"access_token": "0paqu3t0k3n", "expires_in": 3600}', "0paqu3t0k3n"),
}

Open = Callable[..., io.StringIO]
E = TypeVar("E", bound=Exception)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def open_log() -> Iterator[Open]:
    """Configures logging into a buffer, and puts the process back as it was."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook, sys.unraisablehook)

    def configure(*, level: str = "DEBUG", style: Any = "json", stream: Any = None) -> Any:
        stream = stream or io.StringIO()
        logs.configure(level=level, format=style, secrets=KNOWN, stream=stream)
        return stream

    yield configure
    logs.reset()
    logging.captureWarnings(False)
    root.handlers[:], level, sys.excepthook, threading.excepthook, sys.unraisablehook = before
    root.setLevel(level)
    for name in logs.QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def readable(stream: io.StringIO) -> str:
    """Everything a reader could see: the lines as they are, and with JSON's and Python's escapes undone."""
    text = stream.getvalue()
    parts = [text, text.replace("\\\\", "\\").replace('\\"', '"')]
    for line in text.splitlines():
        if line.startswith("{"):
            parts.extend(strings(json.loads(line)))
    return "\n".join(parts)


def strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in strings(part))
    elif isinstance(value, list):
        yield from (text for item in value for text in strings(item))
    else:
        yield str(value)


def raised(error: E, cause: BaseException | None = None) -> E:
    """The same error with a traceback, a cause and a local variable that holds its message."""
    local = str(error)
    try:
        raise error from cause
    except Exception:  # noqa: BLE001  # any error is handed in
        assert local is not None
    return error


def write_everywhere(text: str) -> None:
    """Says ``text`` through every way into the log that we know."""
    log, foreign = logs.get_logger("ours"), logging.getLogger("some.plugin")
    log.info("plugin.loaded", value=text, data=text.encode(), number=int(text) if text.isdigit() else 0)
    log.debug(text, nested={"list": [text, (text, {text: text})], text: {"deep": {text}}}, error=Transient(text))
    log.bind(bound=text).warning("poll.failed", **{text: text})
    logging.getLogger(f"logger.{text}").warning("%s and %r", text, {"a": text})
    foreign.info("said " + text)
    chain = raised(Transient(text), raised(ConfigurationError(text), raised(OSError(text))))
    group = raised(ExceptionGroup(text, [chain, raised(ValueError(text)), ExceptionGroup(text, [Transient(text)])]))
    log.error("daemon.crashed", exc_info=chain)
    foreign.error("failed: %s", chain, exc_info=group)
    with task_context(text):
        foreign.critical("%s", group)
    caught = crash_hooks.install()
    sys.excepthook(type(group), group, group.__traceback__)
    sys.unraisablehook(SimpleNamespace(exc_value=chain))
    caught(None, {"message": f"Exception in callback f({text!r})", "exception": chain})
    thread = threading.Thread(target=raised_again, args=(group,), name=text)
    thread.start()
    thread.join()
    warnings.showwarning(text, UserWarning, "file.py", 1)


def raised_again(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("kind", PLANTED)
def test_no_planted_secret_is_found(kind: str, style: str, open_log: Open) -> None:
    """At DEBUG, through our loggers, others' loggers, tracebacks, groups and crash hooks: 0 found."""
    text, needle = PLANTED[kind]
    stream = open_log(style=style)
    write_everywhere(text)
    assert len(stream.getvalue().splitlines()) >= 13
    assert needle not in readable(stream)


@pytest.mark.parametrize("kind", PLANTED)
def test_the_masker_is_what_removes_secrets(kind: str, open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the same lines without the masker show every planted secret, so looking for them means something."""
    monkeypatch.setattr(masking.Masker, "__call__", lambda _self, text: text)
    text, needle = PLANTED[kind]
    stream = open_log()
    write_everywhere(text)
    assert readable(stream).count(needle) > 13


#: secrets, a text, and what remains of it
MASKED: list[tuple[list[str], str, str]] = [
    (KNOWN, "http://u:p@proxy.internal:3128/a", "http://***@proxy.internal:3128/a"),
    (["", "abc", "wxyz"], "abcdef wxyz", "abcdef ***"),  # a secret of three characters would shred every line
    ([], r"line\nsk-abcd1234 a%3Dsk-abcd1234 task-abcd1234", r"line\n*** a%3D*** task-abcd1234"),
]
READABLE = [
    "task-665f0c0a1b2c3d4e5f607182", "https://api.example.com/api/ai-tasks/pending?limit=5", "OPENAI_API_KEY: required",
    "text-embedding-3-small", "3f2b8c1e-55aa-4b7e-9d7c-0123456789ab", "risk-free disk-full",
]  # fmt: skip


@pytest.mark.parametrize(("secrets", "text", "masked"), [*MASKED, *((KNOWN, text, text) for text in READABLE)])
def test_secrets_are_masked_and_the_rest_stays_readable(secrets: list[str], text: str, masked: str) -> None:
    """What an operator needs survives: hosts, schemes, task ids, model names, prose about keys.

    A key is seen at the start of an escaped line and behind a percent-encoded octet.
    """
    assert masking.Masker(secrets)(text) == masked


@pytest.mark.parametrize(
    "word",
    ["access_token=", "refresh_token=", "id_token=", "client_secret=", "client_assertion=", "api_key=", "api-key=",
     "apikey=", "password=", "authorization=", "bearer ", "basic ", "sk-", "eyJ"],
)  # fmt: skip
def test_every_word_that_gives_a_secret_away_is_found(word: str) -> None:
    """In any case: what a text is searched for first must miss none of them."""
    mask = masking.Masker(())
    for text in {f"x {word}abcdefgh1234", f"x {word.upper() if word not in ('sk-', 'eyJ') else word}abcdefgh1234"}:
        assert mask.may_mask(text)
        assert "abcdefgh1234" not in mask(text)


@pytest.mark.parametrize("length", range(4, 12))
def test_a_secret_is_found_in_base64_at_any_alignment(length: int) -> None:
    """Whatever stands before and behind a secret in Basic credentials, the base64 text does not show it."""
    secret = "S3cr~t/?>>x"[:length]
    mask = masking.Masker([secret])
    for before in ("", "a", "ab", "abc"):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            text = encode(f"{before}{secret}:z".encode()).decode()
            if length > 4 or len(before) % 3 != 1:  # four characters leave too little at that alignment
                assert masking.MASK in mask(text)


@pytest.mark.parametrize(
    "write", [str, json.dumps, ascii, repr, quote, quote_plus, lambda s: json.dumps(s, ensure_ascii=False)]
)
def test_a_secret_is_found_in_any_notation(write: Callable[[str], str]) -> None:
    """As text, as a literal of JSON or Python, in a path, a query and a form: nothing of it is left."""
    secret = "p a/s\"w\\ä~\n+=&'é"
    assert masking.Masker([secret])(f"<{write(secret).strip(chr(34))}>") in ("<***>", "<'***'>")


ENDLESS: dict[str, Any] = {}
ENDLESS["self"] = ENDLESS
NUMBERS = {"count": 3, "lag": 1e-7, "big": 1e30, "flag": True, "none": None, "names": ["a", "b"]}
#: fields, and how they are written
VALUES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a value whose name says that it is secret": (
        {"headers": {"X-Api-Key": "k1", "Authorization": ["k2"]}, "prompt_tokens": 3},
        {"headers": {"X-Api-Key": "***", "Authorization": "***"}, "prompt_tokens": 3},
    ),
    "numbers, booleans and lists, not their texts": (NUMBERS, NUMBERS),
    "a long text: its beginning and its size": ({"text": "x" * 5000}, {"text": "x" * 2000 + "… (5000 characters)"}),
    "a long list: its beginning and its size": ({"list": [0.5] * 1536}, {"list": [0.5] * 30 + ["… (1536 items)"]}),
    "a deep structure": ({"deep": ENDLESS}, {"deep": {"self": {"self": "<dict of 1>"}}}),
    "a secret at the cut: no first half of it is left": (
        {"text": "x" * 1990 + API_KEY}, {"text": "x" * 1990 + "***"}
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", VALUES)
def test_values_are_written_as_they_may_be(case: str, open_log: Open) -> None:
    fields, written = VALUES[case]
    stream = open_log()
    logs.get_logger("ours").info("task.completed", **fields)
    (line,) = lines(stream)
    assert {name: line[name] for name in fields} == written
    assert API_KEY[:5] not in stream.getvalue()


@pytest.mark.parametrize("style", ["json", "console"])
def test_no_message_of_a_foreign_exception_is_told(style: str, open_log: Open) -> None:
    """User text in messages, notes, locals and reprs of others' exceptions reaches no line; our messages do."""
    stream = open_log(style=style)
    log, foreign = logs.get_logger("ours"), logging.getLogger("some.plugin")
    inner = raised(ValueError("cannot parse USER-TEXT"))
    inner.add_note("seen near USER-TEXT")
    group = raised(ExceptionGroup("USER-TEXT", [inner]), raised(KeyError("USER-TEXT")))
    outer = raised(Transient("the API answered 503"), group)
    log.error("task.failed", exc_info=outer, error=inner, both=[inner])
    log.error(inner)  # type: ignore[arg-type]  # as callers do
    foreign.error("failed: %s", inner)
    foreign.error("failed: %s", inner, exc_info=inner)
    foreign.error(inner)
    foreign.error(f"Task exception was never retrieved: {inner!r}", exc_info=inner)
    try:
        raise inner
    except ValueError as error:
        foreign.exception("failed with %s" % error)  # noqa: UP031, G002, TRY401, RUF100  # as callers do
        foreign.error(f"failed with {error}")
        log.exception("task.failed")
    callback = {"message": f"Exception in callback f('USER-TEXT', {inner!r})", "exception": inner}
    crash_hooks.install()(None, callback)
    assert "USER-TEXT" not in readable(stream)
    assert "Transient: the API answered 503" in readable(stream)


def test_a_traceback_names_types_and_frames_of_the_whole_chain(open_log: Open) -> None:
    """Each with file, line and function."""
    stream = open_log()
    cause = raised(OSError(28, "No space left on device"))
    group = raised(ExceptionGroup("several", [raised(KeyError("a")), Transient("down")]), cause)
    logs.get_logger("ours").error("outbox.failed", exc_info=group)
    told = lines(stream)[0]["exception"].splitlines()
    assert [line for line in told if not line.startswith("  ")] == [
        "ExceptionGroup",
        "with KeyError",
        "with ai_task_processor.core.errors.Transient: down",
        "caused by OSError: ENOSPC",
    ]
    assert [bool(re.fullmatch(r"  \S*unit/ops/test_logs\.py:\d+:raised", line)) for line in told].count(True) == 3


def test_an_endless_chain_of_exceptions_is_cut(open_log: Open) -> None:
    stream = open_log()
    first, second = ValueError(), KeyError()
    first.__cause__, second.__cause__ = second, first
    logs.get_logger("ours").error("circle", exc_info=first)
    long: BaseException = ValueError()
    for _ in range(1000):
        long = raised(ValueError(), long)
    logs.get_logger("ours").error("long", exc_info=long)

    def dive(depth: int) -> None:
        if depth:
            dive(depth - 1)
        else:
            raise ValueError

    try:
        dive(500)
    except ValueError:
        logging.getLogger("other").exception("deep")
    circle, chain, deep = lines(stream)
    assert circle["exception"].splitlines() == ["ValueError", "caused by KeyError"]
    assert chain["exception"].count("ValueError") == log_exceptions.MAX_EXCEPTIONS
    assert deep["exception"].count(":dive") == log_exceptions.MAX_FRAMES


def test_a_line_says_when_who_and_how_bad(open_log: Open) -> None:
    """Ours and others' lines start with the same four fields, and no field can pretend to be one of them."""
    stream = open_log()
    logs.get_logger("ours").info("daemon.started", version="1", level="none", timestamp="never", logger="nobody")
    logging.getLogger("other").warning("careful with %d things", 3)
    ours, other = lines(stream)
    assert list(ours)[:4] == list(other)[:4] == ["timestamp", "level", "logger", "event"]
    assert (ours["level"], ours["logger"], ours["event"], ours["version"]) == ("info", "ours", "daemon.started", "1")
    assert (other["level"], other["logger"], other["event"]) == ("warning", "other", "careful with 3 things")
    assert ours["timestamp"].endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(ours["timestamp"])).total_seconds()) < 60


def test_a_task_is_followed_by_its_id(open_log: Open) -> None:
    """Inside a task's context every line carries its id, others' lines too; afterwards none does."""
    stream = open_log()
    with task_context("665f0c"):
        logs.get_logger("ours").info("task.completed")
        logging.getLogger("other").warning("slow")
    logs.get_logger("ours").info("poll.recovered")
    assert [line.get("task_id") for line in lines(stream)] == ["665f0c", "665f0c", None]


async def test_contexts_of_concurrent_tasks_do_not_mix(open_log: Open) -> None:
    stream = open_log()

    async def work(task_id: str) -> None:
        with task_context(task_id):
            for _ in range(3):
                await asyncio.sleep(0)
                logs.get_logger("ours").info("turn.taken", by=task_id)

    async with asyncio.TaskGroup() as group:
        group.create_task(work("a"))
        group.create_task(work("b"))
    assert len(lines(stream)) == 6
    assert all(line["task_id"] == line["by"] for line in lines(stream))


def test_a_logger_made_before_configuring_obeys_what_comes_later(open_log: Open) -> None:
    """Loggers are made at import; level and stream are decided later, and may be decided again."""
    log = logs.get_logger("early")
    first = open_log(level="INFO")
    log.debug("too.fine")
    log.info("just.right")
    second = open_log(level="error")
    log.info("too.fine")
    log.error("just.right")
    assert [line["event"] for line in lines(first)] == ["just.right"]
    assert [line["event"] for line in lines(second)] == ["just.right"]


@pytest.mark.parametrize("name", ["httpx2", "httpcore2.http11", "openai._base_client", "asyncio"])
@pytest.mark.parametrize("level", ["DEBUG", "ERROR"])
def test_chatty_libraries_stay_quiet(name: str, level: str, open_log: Open) -> None:
    """Even at DEBUG, and even when a library sets its own level afterwards, nothing below WARNING passes."""
    stream = open_log(level=level)
    logger = logging.getLogger(name)
    assert not logger.isEnabledFor(logging.INFO)
    logger.setLevel(logging.DEBUG)
    try:
        logger.debug("Request options: USER-TEXT")
        logger.info("HTTP Request: GET http://u:p@host/")
        logger.warning("careful")
        logger.error("broken")
    finally:
        logger.setLevel(logging.NOTSET)
    assert [line["event"] for line in lines(stream)] == (["careful", "broken"] if level == "DEBUG" else ["broken"])


def test_the_format_follows_the_stream(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` is JSON unless the stream is a terminal; colours need a terminal without NO_COLOR."""
    monkeypatch.delenv("NO_COLOR", raising=False)

    def line(style: str, stream: io.StringIO) -> str:
        open_log(style=style, stream=stream)
        logs.get_logger("ours").info("daemon.started")
        return stream.getvalue()

    assert line("auto", io.StringIO()).startswith("{")
    assert line("json", Terminal()).startswith("{")
    assert "\x1b[" in line("auto", Terminal())
    assert "\x1b[" not in line("console", io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in line("auto", Terminal())
    assert not line("auto", Terminal()).startswith("{")


def test_stderr_is_where_logs_go_by_default(open_log: Open, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output stays free for what a command prints."""
    logs.configure(level="INFO", format="auto", secrets=[])
    logs.get_logger("ours").info("daemon.started")
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["event"] == "daemon.started"


class Hostile:
    def __str__(self) -> str:
        raise RuntimeError("USER-TEXT")

    __repr__ = __str__


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "value",
    ["\ud800", b"\xff\x00", "\x1b[31mred", float("nan"), 10**5000, Hostile(), {Hostile(): b"\xff"}, object, None, 1.5],
    ids=lambda value: type(value).__name__,
)
def test_no_value_breaks_a_line(value: object, style: str, open_log: Open) -> None:
    """Lone surrogates, bytes, control characters, giants and hostile objects make one plain line."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    open_log(style=style, stream=stream)
    logs.get_logger("ours").info("record.skipped", value=value, after="ü")
    logging.getLogger("other").warning("%s", [value])
    written = stream.buffer.getvalue().decode("ascii")
    assert "record.skipped" in written
    assert "USER-TEXT" not in written
    assert "\x1b[31m" not in written
    assert len(written.splitlines()) == 2
    if style == "json":
        assert all(json.loads(line, parse_constant=pytest.fail)["timestamp"] for line in written.splitlines())


def test_arguments_that_do_not_fit_are_not_told(open_log: Open, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken call of another library becomes one line, instead of its arguments on stderr."""
    stream = open_log()
    logging.getLogger("other").warning("%d things", "USER-TEXT")
    (line,) = lines(stream)
    assert (line["event"], line["logger"], line["level"]) == ("log.failed", "other", "warning")
    assert capsys.readouterr() == ("", "")


def test_a_closed_stream_hurts_nobody(open_log: Open, capsys: pytest.CaptureFixture[str]) -> None:
    """When the log itself is gone, work goes on and nothing is printed elsewhere."""
    stream = open_log()
    stream.close()
    logs.get_logger("ours").error("task.failed", value=API_KEY)
    assert capsys.readouterr() == ("", "")


def test_crashes_are_structured(open_log: Open) -> None:
    stream = open_log()
    caught = crash_hooks.install()
    error = raised(ValueError("USER-TEXT"))
    sys.excepthook(type(error), error, error.__traceback__)
    for failure in (error, SystemExit(1)):
        thread = threading.Thread(target=raised_again, args=(failure,), name="outbox-writer")
        thread.start()
        thread.join()
    caught(None, {"message": "Task was destroyed but it is pending!"})
    main, thread_line, pending = lines(stream)
    assert (main["event"], main["level"]) == ("daemon.crashed", "critical")
    assert main["exception"].startswith("ValueError\n")
    assert (thread_line["event"], thread_line["thread"]) == ("daemon.crashed", "outbox-writer")
    assert (pending["event"], pending["message"]) == ("exception.caught", "Task was destroyed but it is pending!")
    assert "exception" not in pending


async def test_a_task_nobody_waited_for_is_told_with_its_name(open_log: Open) -> None:
    """The handler fits asyncio: a failing callback and a forgotten task become events without user text."""
    stream = open_log()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(crash_hooks.install())

    async def fail() -> None:
        raise ValueError("USER-TEXT")

    def explode(text: str) -> None:
        raise ValueError(text)

    forgotten = asyncio.create_task(fail(), name="settle")
    loop.call_soon(explode, "USER-TEXT")
    await asyncio.wait([forgotten])
    del forgotten
    await asyncio.sleep(0)
    by_message = {line["message"]: line for line in lines(stream)}
    assert len(by_message) == 2
    assert by_message["Task exception was never retrieved"]["task"] == "settle"
    assert all(line["exception"].startswith("ValueError\n") for line in by_message.values())
    assert "USER-TEXT" not in readable(stream)


def test_the_table_of_events_is_one_of_names() -> None:
    """The module's table lists each event once, as noun.verb_in_past, with what it means."""
    table = re.findall(r"^    (\S+) +(\S.*)$", log_events.__doc__ or "", re.MULTILINE)
    names = [name for name, _ in table]
    assert len(names) == len(set(names)) >= 26
    assert all(re.fullmatch(r"[a-z]+\.[a-z_]+", name) for name in names)
    assert {"task.completed", "delivery.deferred", "breaker.opened", "token.refreshed", "drain.finished"} <= set(names)


def test_dropped_lines_are_an_event(open_log: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written as any other line, in both formats, when lines flow again."""
    for style in ("json", "console"):
        with (tmp_path / style).open("w") as stream:
            open_log(style=style, stream=stream)
            with monkeypatch.context() as patched:
                patched.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
                logs.get_logger("ours").warning("poll.failed")
                logging.getLogger("other").warning("lost, too")
            assert logs.dropped() == 2
            logs.get_logger("ours").warning("poll.recovered")
            logs.flush()
        first, second = (tmp_path / style).read_text().splitlines()
        assert "poll.recovered" in first
        assert "log.dropped" in second
        if style == "json":
            assert json.loads(second).items() >= {"level": "warning", "event": "log.dropped", "lines": 2}.items()


def test_warnings_and_errors_of_the_log_are_remembered(open_log: Open) -> None:
    """Masked, counted together, the newest first; neither INFO nor the text of another library."""
    open_log(level="INFO")
    log = logs.get_logger("ai_task_processor.engine.delivery")
    log.info("poll.recovered", reason="x")
    log.warning("The text of a user: cannot be parsed")
    for _ in range(3):
        log.warning("delivery.deferred", task_id="t", reason=f"it answered {API_KEY}")
    log.error("breaker.opened", service="model", reason="down\nand out")
    log.warning("settings.warned", reason="OPENAI_BASE_URL is http://10.0.0.1")
    try:
        raise ValueError("the text of a user")
    except ValueError as failure:
        log.error("task.crashed", exc_info=failure)
    found = [(each.level, each.event, each.component, each.reason, each.times) for each in logs.recent_errors()]
    assert found == [
        ("error", "task.crashed", "engine.delivery", "ValueError", 1),
        ("warning", "settings.warned", "engine.delivery", "see the log", 1),
        ("error", "breaker.opened", "model", "down and out", 1),
        ("warning", "delivery.deferred", "engine.delivery", "it answered ***", 3),
    ]
