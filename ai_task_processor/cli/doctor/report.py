"""What the doctor finds, and how it is told: findings, checks, the report and its verdict."""

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Final, Literal

from rich.console import Console
from rich.text import Text

from ai_task_processor.net.answers import Head
from ai_task_processor.ops import masking

EX_OK, EX_UNAVAILABLE, EX_CANTCREAT, EX_CONFIG = 0, 69, 73, 78


MAX_NAMES, MAX_NAME = 3, 30


Mark = Literal["ok", "warning", "failure", "skipped"]


#: a sign, its stand-in where only ASCII can be shown, its colour
_SIGNS: Final[Mapping[Mark, tuple[str, str, str]]] = {
    "ok": ("✓", "+", "green"),
    "warning": ("!", "!", "yellow"),
    "failure": ("✗", "x", "red"),
    "skipped": ("-", "-", "dim"),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. A failure has a remedy that names a setting, and an exit code."""

    mark: Mark
    text: str
    remedy: str = ""
    code: int = EX_OK


ok, warning, skipped = partial(Finding, "ok"), partial(Finding, "warning"), partial(Finding, "skipped")


wrong, down = partial(Finding, "failure", code=EX_CONFIG), partial(Finding, "failure", code=EX_UNAVAILABLE)


unusable = partial(Finding, "failure", code=EX_CANTCREAT)


@dataclass(frozen=True, slots=True)
class Check:
    """One question. ``setting`` is where to look when no answer comes; ``needs`` are names of earlier checks."""

    title: str
    work: Callable[[], AsyncIterator[Finding]]
    setting: str
    needs: tuple[str, ...] = ()
    subject: str = ""
    late: Callable[[str, str], Finding] = down

    @property
    def name(self) -> str:
        return f"{self.title} of the {self.subject}" if self.subject else self.title


@dataclass(slots=True)
class Remote:
    """Whom the daemon talks to, and what was seen of the last answer."""

    name: str
    setting: str
    url: str
    skew_s: float | None = None
    status: int = 0
    page: bool = False

    def note(self, answer: Head, now: datetime) -> None:
        self.status = answer.status_code
        self.page = "html" in answer.headers.get("content-type", "")
        if "age" not in answer.headers:  # a cache answers with the date of long ago
            self.skew_s = skew_s(answer.headers.get("date"), now)


class Report:
    """Prints findings as they come, masked, and remembers them for the verdict."""

    def __init__(self, console: Console) -> None:
        self.findings: list[Finding] = []
        self.mask = masking.Masker(())
        self._console = console
        self._ascii = not (console.encoding or "").lower().startswith("utf")

    def add(self, title: str, finding: Finding, subject: str = "") -> None:
        self.findings.append(finding)
        sign, plain, colour = _SIGNS[finding.mark]
        text = f"{subject}: {finding.text}" if subject else finding.text
        self._print(plain if self._ascii else sign, colour, f" {title:<15} {text}")
        if finding.remedy:
            self._print("    ", "", finding.remedy)

    def close(self, verdict: str) -> int:
        """Print the last line; the exit code."""
        self._print("", "", verdict)
        return exit_code(self.findings)

    def _print(self, sign: str, colour: str, text: str) -> None:
        text = self.mask(printable(text))
        text = text.encode("ascii", "replace").decode() if self._ascii else text
        self._console.print(Text.assemble((sign, colour), text), soft_wrap=True)


def exit_code(findings: Iterable[Finding]) -> int:
    """What an operator has to mend comes before what may mend itself."""
    codes = {finding.code for finding in findings}
    return next((code for code in (EX_CONFIG, EX_CANTCREAT, EX_UNAVAILABLE) if code in codes), EX_OK)


def verdict(findings: Sequence[Finding], daemon_running: bool = False) -> str:
    """The last line."""
    count = Counter(finding.mark for finding in findings)
    if failures := count["failure"]:
        return f"{failures} problem{'s' * (failures > 1)} found"
    warned = f", with {count['warning']} warning{'s' * (count['warning'] > 1)}" if count["warning"] else ""
    return f"Ready{warned}: " + ("a daemon is running" if daemon_running else "start with `ai-task-processor run`")


def printable(text: str) -> str:
    """What a remote or a task wrote must not move the cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


def shown(names: Iterable[str]) -> str:
    """A few distinct names, shortened: they may be anything."""
    distinct = list(dict.fromkeys(names))
    few = [printable(name if len(name) <= MAX_NAME else name[: MAX_NAME - 1] + "~") for name in distinct[:MAX_NAMES]]
    more = len(distinct) - len(few)
    return ", ".join(few) + (f" and {more} more" if more else "")


def skew_s(date: str | None, now: datetime) -> float | None:
    """How far the clock behind a ``Date`` header, which is cut to seconds, is ahead of ours; None without one."""
    try:
        theirs = parsedate_to_datetime(date or "")
    except ValueError:
        return None
    return (theirs.replace(tzinfo=theirs.tzinfo or UTC) - now).total_seconds() + 0.5
