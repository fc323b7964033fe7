"""Finds the records of a damaged outbox page by page, and writes them into a new one.

If all pages of the table can be reached from its root, its rows are complete. Otherwise every page is searched; the
index of task ids, if it is complete, then separates live records from those already delivered. Each record is
verified by its checksum.
"""

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, get_args

from ai_task_processor.core.records import to_outcome
from ai_task_processor.models.task import Record, TaskStatus
from ai_task_processor.stores.sqlite import pages, records, schema, wal
from ai_task_processor.stores.sqlite.wal import Log

_BY_TASK, _BY_DUE = "sqlite_autoindex_records_1", "waiting_by_due"
#: number of columns of a record in schema 1
_FIRST_WIDTH: Final = 14
_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "TEXT": str,
    "INTEGER": int,
    "REAL": (int, float),
    "BLOB": bytes,
}


class View:
    """The pages of a database with its log applied; ``file`` is None when the database is gone."""

    def __init__(self, file: int | None, size: int, log: Log) -> None:
        self._file, self._log = file, log
        self._last = max(-(-size // log.page_bytes), log.pages, *log.latest, *log.earlier, 0)

    def fetch(self, number: int) -> bytes | None:
        page_bytes, offset = self._log.page_bytes, self._log.latest.get(number)
        if offset is None and self._file is not None and 0 < number <= self._last:
            image = os.pread(self._file, page_bytes, (number - 1) * page_bytes)
            if image:
                return image.ljust(page_bytes, b"\0")
        offset = self._log.earlier.get(number) if offset is None else offset
        return None if offset is None else self._log.data[offset : offset + page_bytes]

    @property
    def version(self) -> int:
        """The ``user_version``; 0 when unknown."""
        first = self.fetch(1) or b""
        return int.from_bytes(first[60:64], "big", signed=True) if wal.page_bytes(first) else 0

    def up_to_date(self, numbers: Collection[int]) -> bool:
        """Whether these pages are as last committed: none of them is missing or damaged in the log."""
        places = self._log.damaged.values()
        return not self._log.missing and all(0 < page <= self._log.pages and page not in numbers for page in places)

    def images(self, numbers: Iterable[int]) -> Iterator[bytes]:
        return filter(None, map(self.fetch, numbers))

    def rows(self, images: Iterable[bytes]) -> Iterator[tuple[int, tuple[pages.Value, ...] | None]]:
        return chain.from_iterable(pages.rows(image, self.fetch) for image in images)

    def strays(self, known: Collection[int]) -> Iterator[bytes]:
        """Pages that are in no tree and not free, and damaged images of the log."""
        known = {*known, *pages.free(self.fetch)}
        for number in range(2, self._last + 1):
            if number not in known and (image := self.fetch(number)):
                yield image
        yield from self.torn(self._log.damaged.values())

    def torn(self, numbers: Collection[int]) -> Iterator[bytes]:
        """The log's damaged images of these pages."""
        for offset, page in self._log.damaged.items():
            if page in numbers:
                yield self._log.data[offset : offset + self._log.page_bytes]


def consistent(view: View) -> bool:
    """Whether table and index are complete and hold the same records."""
    roots, _ = schema.layout()
    table = pages.walk(view.fetch, roots["records"], pages.TABLE)
    index = pages.walk(view.fetch, roots[_BY_TASK], pages.INDEX)
    rows = {number for number, _ in view.rows(view.images(table.pages))}
    return table.whole and index.whole and rows == _indexed(view, view.images(index.pages))[1]


class Rescue:
    """Copies records into ``new``. ``kept``: ``finished_at`` of each copied record, by (source, task id)."""

    def __init__(self, new: sqlite3.Connection) -> None:
        self._new = new
        self._gone: dict[str, None] = {}
        self.kept: dict[tuple[str, str], float] = {}
        self.unnamed = 0

    @property
    def lost(self) -> tuple[str, ...]:
        """Ids of tasks whose record could not be read."""
        kept = {task_id for _, task_id in self.kept}
        return tuple(task_id for task_id in self._gone if task_id not in kept)

    def take(self, view: View) -> None:
        """Copy all readable live records of the view, and note the unreadable ones."""
        roots, _ = schema.layout()
        table = pages.walk(view.fetch, roots["records"], pages.TABLE)
        index = pages.walk(view.fetch, roots[_BY_TASK], pages.INDEX)
        others = pages.walk(view.fetch, roots[_BY_DUE], pages.INDEX)
        table_whole = table.whole and view.up_to_date(table.pages)
        index_whole = index.whole and view.up_to_date(index.pages)
        known = {*table.pages, *index.pages, *others.pages}
        indexes = [*index.pages, *(() if index_whole else others.pages)]
        strays = view.torn(indexes) if index.whole else view.strays(known)
        names, numbers = _indexed(view, chain(view.images(indexes), strays))

        def live(found: _Found, number: int) -> bool:
            return table_whole or not index_whole or names.get(found.key) == number

        read, unreadable = set[int](), set[int]()
        for number, values in view.rows(view.images(table.pages)):
            found = _record(values)
            if found is None:
                unreadable.add(number)
                if (
                    not index_whole
                    and values
                    and (key := _key(values[:2] if len(values) > _FIRST_WIDTH else values[:1]))
                ):
                    names.setdefault(key, number)
            elif live(found, number):
                read.add(number)
                self._put(found)
        if not table_whole:
            for number, values in view.rows(view.strays(known)):
                if (found := _record(values)) and live(found, number):
                    read.add(number)
                    self._put(found)
        gone = unreadable if table_whole and not index_whole else unreadable | numbers
        gone -= read | {0}  # 0: not even the number was read
        named = sorted((number, key) for key, number in names.items() if number in gone)
        self._gone |= dict.fromkeys(task_id for _, (task_id, *_) in named)
        self.unnamed += len(gone - {number for number, _ in named})

    def _put(self, found: "_Found") -> None:
        """Store a record. The first of a task comes from the table; a later one replaces it only when it is newer."""
        record = found.record
        task = record.receipt.source, record.receipt.id
        if self.kept.get(task, float("-inf")) < record.finished_at:
            self.kept[task] = record.finished_at
            records.put(self._new, record, found.state)


@dataclass(frozen=True, slots=True)
class _Found:
    """A readable record. ``key``: as in its file's index, (task id,) or (task id, source)."""

    record: Record
    state: schema.State
    key: tuple[str, ...]


def _indexed(view: View, images: Iterable[bytes]) -> tuple[dict[tuple[str, ...], int], set[int]]:
    """Of an index: the rowid by key, and all rowids."""
    names, numbers = dict[tuple[str, ...], int](), set[int]()
    for image in images:
        for *values, number in pages.entries(image, view.fetch):
            if isinstance(number, int):
                numbers.add(number)
                if key := _key(values):
                    names.setdefault(key, number)
    return names, numbers


def _key(values: Sequence[pages.Value]) -> tuple[str, ...]:
    """The values as a key; empty when they are not all texts."""
    texts = tuple(value for value in values if isinstance(value, str))
    return texts if len(texts) == len(values) else ()


def _record(values: Sequence[pages.Value] | None) -> _Found | None:
    """The record of a row; None when it is unreadable or invalid."""
    if values is None:
        return None
    version = 1 if len(values) == _FIRST_WIDTH else schema.VERSION
    _, columns = schema.layout(version)
    if len(values) != len(columns):
        return None
    row: dict[str, pages.Value] = {"source": schema.FIRST_SOURCE, "token": "", "trace": None, "usage": None}
    row["acknowledged"] = 0
    for value, (name, kind, needed) in zip(values, columns, strict=True):
        if (value is None and needed) or (value is not None and not isinstance(value, _TYPES[kind])):
            return None
        # SQLite stores 1.0 as 1.
        row[name] = float(value) if kind == "REAL" and isinstance(value, int) else value
    try:
        record = records.to_record(tuple(row[name] for name in schema.RECORD_COLUMNS.split(", ")))
        if record.status is not TaskStatus.PENDING:
            to_outcome(record)
    except (sqlite3.Error, ValueError, TypeError, KeyError):
        return None
    state = next((state for state in get_args(schema.State) if state == row["state"]), None)
    return None if state is None else _Found(record, state, _key(values[: 1 if version == 1 else 2]))
