"""The list of records: a table on a wide terminal, paragraphs on a narrow one, aligned lines elsewhere."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain, islice
from typing import Final

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ai_task_processor.cli.outbox.waits import Situation, why_waiting
from ai_task_processor.core.checks import printable
from ai_task_processor.stores.sqlite.inspection import Summary

HEAD: Final = ("TASK", "TYPE", "STATUS", "STATE", "ATTEMPTS", "AGE", "NEXT TRY", "REASON")
#: a terminal with fewer columns shows a paragraph for each record
WIDE: Final = 120
#: records that a terminal shows
SHOWN: Final = 500
#: reasons that are counted below them, the most frequent
REASONS: Final = 5
#: records whose texts decide the widths of the columns in plain output
_MEASURED: Final = 500
_LONGEST: Final = {
    "STATUS": "succeeded",
    "STATE": "quarantined",
    "AGE": "23 h 59 min",
    "NEXT TRY": "in 15 min (00:00:00Z)",
}
_STYLES: Final = {"waiting": "yellow", "dead": "bold red", "quarantined": "bold red"}


@dataclass(frozen=True, slots=True)
class Row:
    """A record as texts, in the order of ``HEAD``."""

    cells: tuple[str, ...]
    state: str

    @property
    def reason(self) -> str:
        return self.cells[-1]


def row_of(summary: Summary, now: Situation, at: float) -> Row:
    """``at``: seconds since the epoch."""
    reason = why_waiting(summary, now, at) or summary.reason or ""
    texts = (
        summary.task_id,
        summary.task_type,
        str(summary.status),
        summary.state,
        str(summary.attempts),
        span(at - summary.finished_at),
        next_try(summary, at),
        reason,
    )
    return Row(tuple(printable(text) for text in texts), summary.state)


def next_try(summary: Summary, at: float) -> str:
    """``in 45 s (12:31:05Z)``; empty for a record that does not wait."""
    if summary.due_at is None:
        return ""
    if summary.due_at <= at:
        return "now"
    form = "%H:%M:%SZ" if summary.due_at - at < 43_200 else "%Y-%m-%dT%H:%M:%SZ"
    return f"in {span(summary.due_at - at)} ({datetime.fromtimestamp(summary.due_at, UTC).strftime(form)})"


def span(seconds: float) -> str:
    """A duration in its two largest units: ``45 s``, ``12 min``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 100:
        return f"{whole} s"
    hours, minutes = divmod(round(whole / 60), 60)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes} min" if hours < 24 else f"{hours // 24} d {hours % 24} h"


def lines(rows: Iterable[Row]) -> Iterator[str]:
    """Aligned lines with a head; none without rows. The first rows decide the widths."""
    rows = iter(rows)
    first = [HEAD, *(row.cells for row in islice(rows, _MEASURED))]
    if len(first) == 1:
        return
    widths = [max(map(len, (*column, _LONGEST.get(column[0], "")))) for column in zip(*first, strict=True)][:-1]
    for cells in chain(first, (row.cells for row in rows)):
        padded = [text.ljust(width) for text, width in zip(cells, widths, strict=False)]
        yield "  ".join([*padded, cells[-1]]).rstrip()


def print_on(console: Console, rows: Iterable[Row]) -> int:
    """Print the first ``SHOWN`` rows on a terminal, and how many there are for each reason; returns their number."""
    rows = iter(rows)
    shown = list(islice(rows, SHOWN))
    reasons = Counter((row.state, row.reason) for row in shown)
    if shown and console.width >= WIDE:
        console.print(_table(shown))
    else:
        for row in shown:
            _print_paragraph(console, row)
    more = 0
    for more, row in enumerate(rows, 1):  # noqa: B007 - counted
        reasons[row.state, row.reason] += 1
    if len(shown) > 1:
        console.print()
        for (state, reason), count in reasons.most_common(REASONS):
            console.print(Text(f"{count:,} {state}: {reason or 'waits for its turn'}"))
    if more:
        console.print(f"and {more:,} more: choose with --type, --reason, --older-than, or send the output into a pipe")
    return len(shown) + more


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    for name in HEAD:
        table.add_column(name, no_wrap=name not in ("TASK", "REASON"), overflow="fold")
    for row in rows:
        table.add_row(*(Text(text, _STYLES[row.state] if name == "STATE" else "") for name, text in _named(row)))
    return table


def _print_paragraph(console: Console, row: Row) -> None:
    cells = dict(_named(row))
    head = Text.assemble((cells["TASK"], "bold"), "  ", (cells["STATE"], _STYLES[row.state]))
    attempts = cells["ATTEMPTS"]
    tries = f"{attempts} attempt{'s' * (attempts != '1')}, {cells['AGE']} old"
    more = f"{cells['TYPE']} {cells['STATUS']}, {tries}" + (f", next try {cells['NEXT TRY']}" * bool(cells["NEXT TRY"]))
    console.print(head, soft_wrap=True)
    console.print(Padding(Text(f"{more}\n{row.reason}".rstrip()), (0, 0, 0, 2)))


def _named(row: Row) -> Iterable[tuple[str, str]]:
    return zip(HEAD, row.cells, strict=True)
