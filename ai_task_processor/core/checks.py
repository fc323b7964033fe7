"""The interface between components and ``doctor``: remotes to reach, checks to run, findings."""

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

from ai_task_processor.core.errors import InvalidAnswer, Misconfigured, NoToken, RemoteError
from ai_task_processor.models.task import Task

EX_OK, EX_UNAVAILABLE, EX_CANTCREAT, EX_CONFIG = 0, 69, 73, 78
#: number of names that are shown, and characters of each
MAX_NAMES, MAX_NAME = 3, 30

Mark = Literal["ok", "warning", "failure", "skipped"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. A failure has an exit code, and a remedy that names a setting.

    ``daemon``: this finding shows that a daemon is running with these settings.
    """

    mark: Mark
    text: str
    remedy: str = ""
    code: int = EX_OK
    daemon: bool = False


ok, warning, skipped = partial(Finding, "ok"), partial(Finding, "warning"), partial(Finding, "skipped")
#: an operator must change something; a remote is down; the store cannot be written
wrong, down = partial(Finding, "failure", code=EX_CONFIG), partial(Finding, "failure", code=EX_UNAVAILABLE)
unusable = partial(Finding, "failure", code=EX_CANTCREAT)


@dataclass(frozen=True, slots=True)
class Listed:
    """The pending tasks of a source, or the first ``seen`` of them; ``doctor`` reports which can be processed here.

    ``unusable``: of the first records that cannot become tasks, the id (or nothing) and the reason, for
    ``sources check``.
    """

    tasks: Sequence[Task]
    seen: int
    complete: bool
    took: str
    unusable: Sequence[tuple[str, str]] = ()


@dataclass(slots=True, eq=False)
class Remote:
    """A server that a component talks to. ``setting``: the variable with its URL, which has a port unless it is HTTP.

    ``doctor`` stores here what the last HTTP answer showed: status, whether it was a web page, and by how much its
    clock is ahead of ours.
    """

    name: str
    setting: str
    url: str
    status: int = 0
    page: bool = False
    skew_s: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """One check. It is skipped when one of ``needs`` (earlier checks, remotes that must be reachable) failed.

    ``work`` yields findings. After a timeout ``late`` makes the finding, and ``setting`` is named in its remedy.
    ``proves``: the remote that counts as unreachable when the check fails. ``writes``: it sends a request that is no
    read, though it changes nothing; ``sources check`` leaves it out.
    """

    title: str
    work: Callable[[], AsyncIterator[Finding | Listed]]
    setting: str
    needs: "Sequence[Check | Remote]" = ()
    subject: str = ""
    proves: Remote | None = None
    late: Callable[[str, str], Finding] = down
    writes: bool = False

    def __str__(self) -> str:
        return f"{self.title} of the {self.subject}" if self.subject else self.title


class Stopwatch:
    """Formats as the time since its creation."""

    def __init__(self) -> None:
        self._since = time.perf_counter()

    def __str__(self) -> str:
        return f"{(time.perf_counter() - self._since) * 1000:.0f} ms"


def refused(error: Exception, remote: Remote, remedies: Mapping[type[Exception], str], about: str = "") -> Finding:
    """The finding for a refused request. ``remedies``: by error class, for errors that an operator here must mend."""
    if isinstance(error, NoToken) and isinstance(error.__cause__, RemoteError):
        error = error.__cause__
    for kind, remedy in remedies.items():
        if isinstance(error, kind):
            return wrong(f"{about}{error}", remedy)
    text, remedy = halves(str(error))
    if isinstance(error, Misconfigured) and remedy:  # which names the setting
        return wrong(f"{about}{text}", remedy)
    if isinstance(error, Misconfigured | InvalidAnswer):
        what = "a web page" if remote.page else str(error)
        return wrong(f"{about}something else is there: {what}", f"correct {remote.setting}: host and path")
    return down(f"{about}{error}", f"ask who runs the {remote.name}, or look at {remote.setting}")


def halves(text: str) -> tuple[str, str]:
    """Split a message into problem and remedy: at the first colon outside brackets.

    A colon after a single word belongs to the problem, because that is a place: ``TASK_SOURCE: shop.toml:12: …``.
    """
    depth = begin = 0
    for at, char in enumerate(text):
        depth += (char in "([{") - (char in ")]}")
        if depth or not text.startswith(": ", at):
            continue
        if re.fullmatch(r"\S+|.*:\d+", text[begin:at]) is None:
            return text[:at], text[at + 2 :]
        begin = at + 2
    return text, ""


def printable(text: str) -> str:
    """Replace control characters: text of a remote or a task must not control the terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)


def shown(names: Iterable[str]) -> str:
    """A few distinct names, shortened, because they are untrusted."""
    distinct = list(dict.fromkeys(names))
    few = [printable(name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "~") for name in distinct[:MAX_NAMES]]
    more = len(distinct) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")


async def aside(work: Callable[[], T]) -> T:
    """Run blocking work in a daemon thread: the process must not wait for a dead resolver or a hung network disk."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # cancelling the waiting task does not cancel the thread

    def run() -> None:
        try:
            outcome.set_result(work())
        except Exception as error:  # noqa: BLE001 - raised in the waiting task
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return await asyncio.wrap_future(outcome)
