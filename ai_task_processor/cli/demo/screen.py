"""The demo's output: two bars and a table on a terminal, plain lines elsewhere."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ai_task_processor.cli.demo.chain import REQUESTS
from ai_task_processor.cli.demo.words import EX_FAILED, ChainFigures, Figures, Rows

Show = Callable[[Figures, ChainFigures], None]

_COMMAND: Final = "ai-task-processor"
_NEXT: Final = """\
What to try next:
  look around while it runs           {command} demo --keep
  the same remotes, to play with      {command} sandbox (it prints the environment to copy)
  break them while a daemon works     curl http://127.0.0.1:8080/sandbox/faults -d '{fault}'
  every setting with its meaning      .env.example
  check your own settings             {command} doctor
"""
_KEPT: Final = """\
Daemon and sandbox go on until Ctrl-C.
  the daemon     {ops}/, {ops}/status, {ops}/metrics
  the sandbox    {sandbox}/sandbox (its tasks, results and faults)
  the log        {log}
  add a task     curl {sandbox}/sandbox/tasks -d '[{{"text": "Hello"}}]'
  add a claim    curl {sandbox}/sandbox/tasks -d '{{"claims": 1}}'
  break things   curl {sandbox}/sandbox/faults -d '{fault}'
"""
_FAULT: Final = '{"endpoint": "patch", "status": 503, "times": 20}'


@contextmanager
def progress(console: Console, texts: int) -> Iterator[Show]:
    """Show progress, of ``texts`` and the requests: bars on a terminal, a line every second elsewhere."""
    if not _lively(console):
        yield PlainProgress(texts, time.monotonic)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[more]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        first = progress.add_task("texts settled", total=texts, more="")
        second = progress.add_task("requests in triage", total=REQUESTS, more="")

        def show(now: Figures, chain: ChainFigures) -> None:
            progress.update(first, completed=now.settled, more=f"{now.per_second:.0f}/s")
            progress.update(second, completed=chain.triaged, more=_chat(chain), refresh=True)

        yield show


def _chat(chain: ChainFigures) -> str:
    return f"{chain.chat_calls} chat calls, {chain.chat_tokens} tokens"


class PlainProgress:
    """Prints at most one line a second, and one at the end."""

    def __init__(self, texts: int, monotonic: Callable[[], float]) -> None:
        self._texts = texts
        self._monotonic = monotonic
        self._started_at = self._printed_at = monotonic()

    def __call__(self, now: Figures, chain: ChainFigures) -> None:
        at = self._monotonic()
        if (now.settled == self._texts and chain.ended) or at - self._printed_at >= 1.0:
            self._printed_at = at
            texts = f"{now.settled:>5} of {self._texts} texts settled, {now.per_second:.0f}/s"
            triaged = f"{chain.triaged:>2} of {chain.requests} requests in triage, {_chat(chain)}"
            print(f"{at - self._started_at:>4.0f} s  {texts}; {triaged}", flush=True)


def print_result(rows: Rows, sentences: Sequence[str], console: Console) -> None:
    if _lively(console):
        grid = Table(box=SIMPLE, show_header=False)
        grid.add_column(style="bold")
        for row in rows:
            grid.add_row(*row)
        console.print(grid)
    else:
        print("", *(f"{name:<18}{value}" for name, value in rows), "", sep="\n")
    print(*sentences, "", sep="\n")


def print_next() -> None:
    print(_NEXT.format(command=own_command(sys.argv[0]), fault=_FAULT), end="", flush=True)


def print_kept(ops: str, sandbox: str, log: Path) -> None:
    """``ops``, ``sandbox``: the URLs of the running daemon and its remotes."""
    print(_KEPT.format(ops=ops, sandbox=sandbox, log=log, fault=_FAULT), end="", flush=True)


def _lively(console: Console) -> bool:
    return console.is_terminal and not console.is_dumb_terminal


def own_command(script: str) -> str:
    """The command that started this program, to be copied."""
    if Path(script).name != _COMMAND:
        return "python -m ai_task_processor"
    return _COMMAND if shutil.which(_COMMAND) == script else script


def complain(*lines: str, code: int = EX_FAILED) -> int:
    for line in lines:
        print(f"demo: {line}", file=sys.stderr)
    return code
