"""The pause by an operator, over restarts and on damaged disks, and the log level at run time."""

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.engine.control import Control
from ai_task_processor.engine.pause import Pause
from ai_task_processor.ops import logs as log_module
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.status import Paused


class Room:
    """A control with its pause; ``next`` is that of the next process. ``changes``: how often something was changed."""

    def __init__(self, directory: Path | None, clock: Any) -> None:
        self._directory, self._clock = directory, clock
        self.changes = 0
        self.pause = Pause(directory, clock)
        self.control = Control(self.pause, level="INFO", changed=self._changed)
        self.control.load()

    def _changed(self) -> None:
        self.changes += 1

    @property
    def files(self) -> list[Path]:
        return [] if self._directory is None else list(self._directory.iterdir())

    def next(self) -> "Room":
        return Room(self._directory, self._clock)


async def turns() -> None:
    """Until timers of no length have fired."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
def log_file() -> Iterator[io.StringIO]:
    """The log of a process with LOG_LEVEL=INFO."""
    root = logging.getLogger()
    handlers, level, stream = root.handlers[:], root.level, io.StringIO()
    log_module.configure(level="INFO", format="json", secrets=["s3cret-of-tests"], stream=stream)
    yield stream
    log_module.reset()
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in log_module.QUIET:
        logging.getLogger(name).setLevel(logging.NOTSET)


async def test_a_pause_outlasts_the_process_until_it_is_ended(tmp_path: Path, clock: Any) -> None:
    """With its beginning and the last reason; ended it leaves no file. Without a directory it ends with the process."""
    room = Room(tmp_path, clock)
    assert room.pause.state is None
    since = clock.now().isoformat(timespec="seconds")
    assert room.control.pause({"reason": " database is moved "})[0] == 200
    await clock.sleep(60.0)
    assert room.next().pause.state == Paused(since=since, reason="database is moved")
    room = room.next()
    status, body = room.control.pause({"reason": "still"})
    assert (status, body["paused"]) == (200, {"since": since, "reason": "still"})
    assert room.control.resume({})[1]["paused"] is None
    assert (room.changes, room.files, room.next().pause.state) == (2, [], None)
    assert room.control.resume({})[0] == 200

    memory = Room(None, clock)
    assert memory.control.pause({})[0] == 200
    assert str(memory.pause.state) == f"paused by an operator since {since[:10]} 00:17:40Z"
    assert memory.next().pause.state is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"since": "2026-12-01T00:00:00+00:00"}', '{"since": "soon", "reason": ""}', "\x00" * 100_000]
    + [json.dumps({"since": since, "reason": reason}) for since, reason in (("2026-12-01", ""), ("now", "x" * 999))],
    ids=lambda text: text[:20],
)
def test_a_damaged_file_is_a_pause(tmp_path: Path, clock: Any, text: str) -> None:
    """It was paused on purpose: it stays so, names file and remedy, and the remedy works."""
    (tmp_path / "paused.json").write_text(text)
    room = Room(tmp_path, clock)
    assert "paused.json cannot be read (damaged); 'ai-task-processor resume'" in str(room.pause.state)
    assert room.control.resume({})[0] == 200
    assert room.next().pause.state is None


async def test_what_the_disk_refuses_is_told(tmp_path: Path, clock: Any) -> None:
    """A pause that cannot be written holds for this process; one that cannot be removed, or read, goes on."""
    gone = tmp_path / "gone"
    room = Room(gone, clock)
    status, body = room.control.pause({})
    assert (status, room.pause.state is not None, room.changes) == (500, True, 1)
    assert "only until the daemon ends" in str(body["error"])
    (tmp_path / "paused.json").mkdir()
    room = Room(tmp_path, clock)
    assert "cannot be read (Is a directory)" in str(room.pause.state)
    status, body = room.control.resume({})
    assert (status, room.pause.state is not None) == (500, True)
    assert "still paused" in str(body["error"])


@pytest.mark.parametrize("reason", ["two\nlines", "x" * 201, "\x1b[2J"])
def test_a_reason_is_one_printable_line(tmp_path: Path, clock: Any, reason: str) -> None:
    room = Room(tmp_path, clock)
    status, body = room.control.pause({"reason": reason})
    assert (status, room.pause.state) == (400, None)
    assert "one line of at most 200" in str(body["error"])


def test_a_pause_is_logged_and_shows_no_secret(log_file: io.StringIO, tmp_path: Path, clock: Any) -> None:
    room = Room(tmp_path, clock)
    room.control.pause({"reason": "s3cret-of-tests leaked"})
    shown = (tmp_path / "paused.json").read_text() + str(room.control.status())
    room.control.resume({})
    room.control.resume({})
    lines = log_file.getvalue().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["daemon.paused", "daemon.resumed"]
    assert "s3cret" not in shown + log_file.getvalue()


async def test_a_level_holds_until_it_is_set_again_or_its_time_is_over(log_file: io.StringIO) -> None:
    """For loggers that were used before, too. A later call replaces the time of an earlier one."""
    room = Room(None, None)
    log = get_logger("ai_task_processor.test")

    def shown() -> tuple[object, bool]:
        before = len(log_file.getvalue())
        log.debug("task.completed")
        return room.control.status()["log_level"], len(log_file.getvalue()) > before

    assert shown() == ("INFO", False)
    assert room.control.log_level({"level": "debug"})[1]["log_level"] == "DEBUG"
    assert shown() == ("DEBUG", True)
    room.control.log_level({"level": "WARNING", "seconds": "1e-9"})
    room.control.log_level({"level": "DEBUG"})
    await turns()
    assert shown() == ("DEBUG", True)
    room.control.log_level({"level": "ERROR", "seconds": "1e-9"})
    assert shown() == ("ERROR", False)
    await turns()
    assert shown() == ("INFO", False)
    assert logging.getLogger("httpx2").level == logging.WARNING
    set_to = [json.loads(line).get("to") for line in log_file.getvalue().splitlines()]
    assert [level for level in set_to if level] == ["DEBUG", "WARNING", "DEBUG", "ERROR", "INFO"]


@pytest.mark.parametrize(
    "query",
    [{}, {"level": "LOUD"}, *({"level": "DEBUG", "seconds": text} for text in ("0", "-1", "nan", "inf", "x", "86401"))],
    ids=str,
)
def test_a_wrong_level_or_time_changes_nothing(log_file: io.StringIO, query: dict[str, str]) -> None:
    assert Room(None, None).control.log_level(query)[0] == 400
    assert (log_module.level(), log_file.getvalue()) == ("INFO", "")
