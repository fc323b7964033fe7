"""``status``: what a running daemon does, once or again and again (``--watch``).

Sections on a terminal, plain aligned lines elsewhere.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Final
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError
from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ai_task_processor.cli.healthcheck import EX_FAILED, EX_OK, local_addresses
from ai_task_processor.core import codec
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.ops.overview import Cell, Headline, Section, headline, line, sections
from ai_task_processor.ops.status import FIELDS, Status

EX_UNAVAILABLE: Final = 69
TIMEOUT_S: Final = 3.0
#: longest answer that is read
MAX_BYTES: Final = 2**24
#: rows of each table that ``--watch`` shows
ROWS: Final = 5
#: columns but the last are not made narrower than this by a long text in the last
MIN_WIDTH: Final = 24
_STYLES: Final = {"plain": "", "good": "green", "warn": "yellow", "bad": "bold red"}
_MODEL: Final = TypeAdapter(Status)

#: the body of ``/status``, as it came
Ask = Callable[[], bytes]
Target = tuple[type[HTTPConnection], str, int]


class NoAnswerError(Exception):
    """No daemon answers, or something else does. The message is for people."""


def main(arguments: argparse.Namespace, settings: Mapping[str, str]) -> int:
    """``settings``: ``METRICS_HOST`` and ``METRICS_PORT`` as far as they are set."""
    ask = _asking(arguments.url, settings)
    if arguments.watch:
        return _watch(ask, max(0.1, arguments.interval))
    try:
        body = ask()
        status, more = read(body)
    except NoAnswerError as error:
        print(f"ai-task-processor: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    console = Console(highlight=False)
    if arguments.json:
        print(body.decode().strip())
    elif console.is_terminal:
        console.print(screen(headline(status), sections(status, more)))
    else:
        print("\n".join(plain(headline(status), sections(status, more))))
    return EX_OK if status.ready else EX_FAILED


def read(body: bytes) -> tuple[Status, Mapping[str, object]]:
    """The model, and the fields of components. Raises ``NoAnswerError`` when it is no status of this version."""
    try:
        document = codec.loads(body)
        status = _MODEL.validate_python(document)
    except (ValueError, ValidationError) as error:
        text = "what answers is no daemon of this version: its /status cannot be read"
        raise NoAnswerError(text) from error
    fields = document if isinstance(document, dict) else {}
    return status, {name: value for name, value in fields.items() if name not in FIELDS}


def _asking(url: str | None, settings: Mapping[str, str]) -> Ask:
    """Asks the daemon of this URL, or the one on this machine. Raises ``ConfigurationError``."""
    if url is None:
        host, text = settings.get("METRICS_HOST", "127.0.0.1"), settings.get("METRICS_PORT", "8001")
        if not text.isdecimal() or int(text) > 65_535:
            raise ConfigurationError(f"METRICS_PORT is no port: {text[:20]!r}")
        targets: list[Target] = [(HTTPConnection, each, int(text)) for each in local_addresses(host)]
        where = f"{host}:{text} (METRICS_HOST, METRICS_PORT): is the daemon running?"
        return lambda: _first_answer(targets, where)
    try:
        parts = urlsplit(url)
        kinds: Mapping[str, type[HTTPConnection]] = {"http": HTTPConnection, "https": HTTPSConnection}
        kind = kinds[parts.scheme]
        host, given = parts.hostname or "", parts.port
        if not host or parts.username or parts.path.strip("/") or parts.query:
            raise ValueError
    except (KeyError, ValueError):
        raise ConfigurationError("--url must be http://HOST:PORT, without a path") from None
    port = given or (443 if parts.scheme == "https" else 80)
    return lambda: _first_answer([(kind, host, port)], f"{host}:{port}: is it the address of an ops port?")


def _first_answer(targets: Sequence[Target], where: str) -> bytes:
    problem = ""
    for kind, host, port in targets:
        connection = kind(host, port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/status")
            answer = connection.getresponse()
            body = answer.read(MAX_BYTES)
        except (OSError, HTTPException, UnicodeError) as error:
            problem = problem or f"no daemon answers at {where} ({_why(error)})"
            continue
        finally:
            connection.close()
        if answer.status != 200:
            raise NoAnswerError(f"what answers at {where.partition(' ')[0]} is no daemon: {answer.status} for /status")
        return body
    raise NoAnswerError(problem)


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error) or type(error).__name__


def _watch(ask: Ask, interval_s: float) -> int:
    """Until Ctrl-C. A daemon that does not answer is shown as such, and asked again."""
    console = Console(highlight=False)
    lively = console.is_terminal and not console.is_dumb_terminal
    last, answered_at = "", time.time()
    with Live(console=console, auto_refresh=False, screen=True) if lively else nullcontext() as live:
        try:
            while True:
                try:
                    status, more = read(ask())
                except NoAnswerError as error:
                    said = f"no answer since {_clock(answered_at)}: {error}"
                    shown: RenderableType = Group(Text(said, style="bold red"), Text(last, style="dim"))
                else:
                    answered_at = time.time()
                    said = last = line(status)
                    now, rows = _clock(answered_at), rows_for(console.height)
                    shown = screen(headline(status), sections(status, more), rows=rows, clock=now)
                if live is None:
                    print(f"{_clock(time.time())} {said}", flush=True)
                else:
                    live.update(shown, refresh=True)
                time.sleep(interval_s)
        except KeyboardInterrupt:
            return EX_OK


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def rows_for(height: int) -> int:
    """Rows of each table, so that the important ones fit the height of the terminal."""
    return max(2, (height - 18) // 3)


def plain(top: Headline, shown: Sequence[Section]) -> list[str]:
    """Lines of text, the columns aligned."""
    lines = [top.state, *(f"  {sentence.text}" for sentence in top.sentences), f"  {top.about}"]
    for section in shown:
        lines += ["", section.title]
        texts = [[_clean(cell.text) for cell in row] for row in section.rows]
        table = [list(section.columns), *texts] if section.columns and texts else texts
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines += [
            "  " + "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in table
        ]
        if not texts:
            lines.append(f"  {section.empty}")
    return lines


def screen(top: Headline, shown: Sequence[Section], *, rows: int | None = None, clock: str = "") -> RenderableType:
    """For a terminal. ``rows``: the most that each table may have, with one line for each row; None: all, and all."""
    facts = [section for section in shown if not section.columns and section is not shown[-1]]
    tables = [section for section in shown if section.columns or (section is shown[-1] and rows is None)]
    state = Text.assemble((f"{top.sign} {top.state}", f"bold {_STYLES[top.tone]}"), f"  {clock}")
    parts: list[RenderableType] = [state, *(_text(sentence) for sentence in top.sentences)]
    parts.append(Text(top.about, style="dim"))
    beside = Table.grid(padding=(0, 4), expand=False)
    beside.add_row(*(_table(section, None) for section in facts))
    parts += [Text(), beside]
    for section in tables:
        if section.rows:
            parts += [Text(), _table(section, rows)]
        else:
            parts += [Text.assemble((f"\n{section.title}: ", "bold"), section.empty)]
    return Group(*parts)


def _table(section: Section, rows: int | None) -> RenderableType:
    table = Table(box=None, show_header=bool(section.columns), header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    columns = section.columns or ("", "")
    for number, column in enumerate(columns):
        longest = max((len(row[number].text) for row in section.rows), default=0)
        # The last column gets the rest of the line.
        width = min(MIN_WIDTH, max(longest, len(column))) if number < len(columns) - 1 else None
        overflow: OverflowMethod = "fold" if rows is None else "ellipsis"
        table.add_column(column, min_width=width, no_wrap=rows is not None, overflow=overflow)
    for row in section.rows[:rows]:
        table.add_row(*(_text(cell) for cell in row))
    parts: list[RenderableType] = [Text(section.title, style="bold"), table]
    if rows is not None and len(section.rows) > rows:
        parts.append(Text(f"and {len(section.rows) - rows} more", style="dim"))
    return Group(*parts)


def _text(cell: Cell) -> Text:
    return Text(_clean(cell.text), style=_STYLES[cell.tone])


def _clean(text: str) -> str:
    """Nothing that a terminal would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)
