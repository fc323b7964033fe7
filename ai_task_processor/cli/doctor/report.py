"""Prints findings, the last line of the report, and computes the exit code."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich.console import Console
from rich.text import Text

from ai_task_processor.core.checks import EX_CANTCREAT, EX_CONFIG, EX_OK, EX_UNAVAILABLE, Finding, Mark, printable
from ai_task_processor.ops import masking

#: a sign, its ASCII replacement, its colour
_SIGNS: Final[Mapping[Mark, tuple[str, str, str]]] = {
    "ok": ("✓", "+", "green"),
    "warning": ("!", "!", "yellow"),
    "failure": ("✗", "x", "red"),
    "skipped": ("-", "-", "dim"),
}


class Report:
    """Prints findings as they come, with secrets masked, and collects them for the summary."""

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

    def note(self, title: str, text: str) -> None:
        """Print a line that is no finding."""
        self._print(" ", "", f" {title:<15} {text}")

    def close(self, summary: str) -> int:
        """Print the last line; returns the exit code."""
        self._print("", "", summary)
        return exit_code(self.findings)

    def _print(self, sign: str, colour: str, text: str) -> None:
        text = self.mask(printable(text))
        text = text.encode("ascii", "replace").decode() if self._ascii else text
        self._console.print(Text.assemble((sign, colour), text), soft_wrap=True)


def exit_code(findings: Iterable[Finding]) -> int:
    """The code of the most severe failure: first what an operator must change, then what may recover by itself."""
    codes = {finding.code for finding in findings}
    return next((code for code in (EX_CONFIG, EX_CANTCREAT, EX_UNAVAILABLE) if code in codes), EX_OK)


def summary(findings: Sequence[Finding]) -> str:
    """The last line of the report."""
    count = Counter(finding.mark for finding in findings)
    if failures := count["failure"]:
        return f"{failures} problem{'s' * (failures > 1)} found"
    warned = f", with {count['warning']} warning{'s' * (count['warning'] > 1)}" if count["warning"] else ""
    running = any(finding.daemon for finding in findings)
    return f"Ready{warned}: " + ("a daemon is running" if running else "start with `ai-task-processor run`")
