"""``status`` without a daemon: what is read, how it is shown, and how ``--watch`` goes on."""

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pytest
from rich.console import Console

from ai_task_processor.cli import status as command
from ai_task_processor.cli.status import NoAnswerError, main, plain, read, screen
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.ops.overview import headline, sections
from ai_task_processor.ops.status import Status
from tests.unit.ops.statuses import WELL, error, status

DOWN = status(state="degraded", not_ready_because=["outbox_full"], why_idle="outbox_full")
#: what a terminal would obey
ESCAPE = "\x1b]0;owned\x07"


def body(of: Status, **more: object) -> bytes:
    return json.dumps({**asdict(of), **more}).encode()


def arguments(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"url": "http://127.0.0.1:1", "json": False, "watch": False, "interval": 1.0, **given})


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The next answers of the daemon; after them comes Ctrl-C."""

    def give(*following: bytes | None) -> None:
        left: Iterator[bytes | None] = iter(following)

        def ask() -> bytes:
            try:
                found = next(left)
            except StopIteration:
                raise KeyboardInterrupt from None
            if found is None:
                raise NoAnswerError("no daemon answers at here")
            return found

        monkeypatch.setattr(command, "_asking", lambda *_: ask)
        monkeypatch.setattr(time, "sleep", lambda _: None)

    return give


def test_what_is_read_is_what_was_served() -> None:
    """Fields of components are apart; an answer of another version or of something else is no status."""
    assert read(body(WELL, token={"held": True})) == (WELL, {"token": {"held": True}})
    for other in (b"", b"<html>", b"[]", b'{"version": "0.1.0"}'):
        with pytest.raises(NoAnswerError, match="no daemon of this version"):
            read(other)


@pytest.mark.parametrize(("of", "code"), [(WELL, 0), (DOWN, 1)], ids=["ready", "not ready"])
def test_in_a_pipe_it_is_plain_text(
    of: Status, code: int, answers: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """0 when ready, otherwise 1; no escape sequence, and no line that is padded. ``--json``: what was answered."""
    answers(body(of, odd=ESCAPE), body(of))
    assert main(arguments(), {}) == code
    said = capsys.readouterr().out
    assert said.startswith(headline(of).state)
    assert "  Acknowledged  60 a minute, 7,200 in the last hour\n" in said
    assert said.isprintable() or set(said) >= {"\n"}
    assert "\x1b" not in said
    assert [line for line in said.splitlines() if line != line.rstrip()] == []
    assert main(arguments(json=True), {}) == code
    assert json.loads(capsys.readouterr().out) == json.loads(body(of))


def test_without_an_answer_it_is_69(answers: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    answers(None)
    assert main(arguments(), {}) == 69
    assert capsys.readouterr().err == "ai-task-processor: no daemon answers at here\n"


@pytest.mark.parametrize(
    ("url", "settings", "named"),
    [
        ("localhost:8001", {}, "--url"),
        ("ftp://localhost", {}, "--url"),
        ("http://user:secret@localhost", {}, "--url"),
        ("http://localhost:8001/status", {}, "--url"),
        ("http://localhost:99999", {}, "--url"),
        (None, {"METRICS_PORT": "many"}, "METRICS_PORT"),
    ],
)
def test_a_wrong_address_is_named(url: str | None, settings: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as raised:
        main(arguments(url=url), settings)
    assert "secret" not in str(raised.value)


def test_a_watch_survives_a_restart(answers: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal a line for each look, also while nothing answers; Ctrl-C ends it with 0."""
    answers(body(WELL), None, body(DOWN))
    assert main(arguments(watch=True), {}) == 0
    first, gone, again = capsys.readouterr().out.splitlines()
    assert " running, ready; 3 of 8 slots" in first
    assert " no answer since " in gone
    assert " degraded, not ready; " in again


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (140, 45)])
def test_a_screen_fits_its_terminal(columns: int, lines: int) -> None:
    """With 20 errors and 20 tasks: the headline, both lists of facts and the errors stand in the first 24 lines."""
    busy = status(
        last_errors=[error(reason=f"{number} {ESCAPE}{'long ' * 40}") for number in range(20)],
        running_tasks=[*WELL.running_tasks] * 20,
    )
    console = Console(width=columns, height=lines, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(screen(headline(busy), sections(busy, {}), rows=command.rows_for(lines)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    top = "\n".join(text.splitlines()[:24])
    for words in ("running, ready", "Acknowledged", "Dead letters", "Last warnings and errors", "poll.failed"):
        assert words in top
    assert max(map(len, text.splitlines())) <= columns
    assert text.count("more\n") == 2
    assert len(text.splitlines()) <= max(lines, 34)
    assert "\x1b" not in text


def test_all_is_shown_when_it_is_not_watched() -> None:
    many = status(last_errors=[error(reason=f"reason {number}") for number in range(20)])
    assert sum("reason " in line for line in plain(headline(many), sections(many, {}))) == 20
