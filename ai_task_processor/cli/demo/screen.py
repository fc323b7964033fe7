"""The demo's output: a bar and a table on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ai_task_processor.cli.demo.words import EX_FAILED, Figures, Rows

Show = Callable[[Figures], None]

_COMMAND: Final = "ai-task-processor"
_NEXT: Final = """\
What to try next:
  the same remotes, to play with   {command} sandbox (it prints the environment to copy)
  break them while a daemon works     curl http://127.0.0.1:8080/sandbox/faults -d '{fault}'
  every setting with its meaning      .env.example
  check your own settings             {command} doctor
"""
_FAULT: Final = '{"endpoint": "patch", "status": 503, "times": 20}'


@contextmanager
def progress(console: Console, total: int) -> Iterator[Show]:
    """Show progress: a bar on a terminal, a line every second elsewhere."""
    if not _lively(console):
        yield PlainProgress(total, time.monotonic)
        return
    speed = TextColumn("{task.fields[per_second]:.0f}/s")
    columns = (TextColumn("tasks"), BarColumn(), MofNCompleteColumn(), speed, TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        bar = progress.add_task("", total=total, per_second=0.0)
        yield lambda now: progress.update(bar, completed=now.settled, per_second=now.per_second, refresh=True)


class PlainProgress:
    """Prints at most one line a second, and one at the end."""

    def __init__(self, total: int, monotonic: Callable[[], float]) -> None:
        self._total = total
        self._monotonic = monotonic
        self._started_at = self._printed_at = monotonic()

    def __call__(self, now: Figures) -> None:
        at = self._monotonic()
        if now.settled == self._total or at - self._printed_at >= 1.0:
            self._printed_at = at
            speed = f"{now.per_second:.0f}/s, {at - self._started_at:.0f} s"
            print(f"{now.settled:>5} of {self._total} settled, {speed}", flush=True)


def print_table(rows: Rows, console: Console) -> None:
    if _lively(console):
        grid = Table(box=SIMPLE, show_header=False)
        grid.add_column(style="bold")
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
    else:
        print("", *(f"{name:<16}{value}" for name, value in rows), "", sep="\n")
    print(_NEXT.format(command=_command(sys.argv[0]), fault=_FAULT), end="", flush=True)


def _lively(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def _command(script: str) -> str:
    """The command that started this program, to be copied."""
    if Path(script).name != _COMMAND:
        return "python -m ai_task_processor"
    return _COMMAND if shutil.which(_COMMAND) == script else script


def complain(*lines: str, code: int = EX_FAILED) -> int:
    for line in lines:
        print(f"demo: {line}", file=sys.stderr)
    return code
