"""A pause by an operator: nothing more is claimed, what runs ends, and delivery goes on. It outlasts a restart.

``paused.json`` in the data directory is there as long as the pause. A file that cannot be read counts as a pause: a
daemon that was paused on purpose must not start to work because a file is damaged.
"""

import os
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ai_task_processor.core import codec
from ai_task_processor.core.ports import Clock
from ai_task_processor.ops.status import Paused

FILE = "paused.json"
#: characters of a reason
MOST_REASON = 200
#: a larger file is not ours
_MOST_BYTES = 2**14


class Pause:
    """``state``: the pause under way, None when there is none. Without a directory it ends with the process."""

    def __init__(self, directory: Path | None, clock: Clock) -> None:
        self.state: Paused | None = None
        self._path = None if directory is None else directory / FILE
        self._clock = clock

    def load(self) -> None:
        """Go on with the pause of an earlier process; once, when the data directory is ours."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                self.state = _parsed(file.read(_MOST_BYTES))
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "damaged"
            remedy = "'ai-task-processor resume' or a restart without that file ends the pause"
            self.state = Paused(since=self._now(), reason=f"{self._path} cannot be read ({why}); {remedy}")

    def begin(self, reason: str) -> Paused:
        """Pause; a second call changes the reason only. Raises ``OSError`` when it is paused, but not durably.

        It writes a small file and waits for the disk, as rarely as operators pause.
        """
        since = self._now() if self.state is None else self.state.since
        self.state = state = Paused(since=since, reason=reason)
        if self._path is not None:
            _write(self._path, codec.line(asdict(state)))
        return state

    def end(self) -> None:
        """End the pause. Raises ``OSError``, and stays paused, when the file cannot be removed."""
        if self._path is not None:
            with suppress(FileNotFoundError):
                self._path.unlink()
                _sync(self._path.parent)
        self.state = None

    def _now(self) -> str:
        return self._clock.now().astimezone(UTC).isoformat(timespec="seconds")


def _parsed(data: bytes) -> Paused:
    """Raises ``ValueError``."""
    match codec.loads(data):
        case {"since": str(since), "reason": str(reason)}:
            offset = datetime.fromisoformat(since).utcoffset()
            if offset == timedelta() and reason.isprintable() and len(reason) <= MOST_REASON:
                return Paused(since=since, reason=reason)
    raise ValueError("not a pause")


def _write(path: Path, data: bytes) -> None:
    """Replace the file atomically and durably."""
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    _sync(path.parent)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
