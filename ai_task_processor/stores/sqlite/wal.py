"""The write-ahead log of a database that nobody has open, looked at before SQLite does.

SQLite reads a log up to the first frame that does not verify and drops the rest without a word; a log with a damaged
head, or without its database, it deletes. Here the log is only read: what is sound in it, and what is missing.
Pure functions over bytes. Formats: https://www.sqlite.org/fileformat2.html#walformat, and
https://www.sqlite.org/walformat.html for the ``-shm`` file, which still says after a kill what was committed.
"""

import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Final

Bytes = bytes | mmap
Salts = tuple[int, int]

#: magic, version, page size, number of the generation, two salts, two sums over what stands before
_HEAD: Final = struct.Struct(">8I")
#: page, size of the database in pages when it ends a transaction or 0, two salts, two sums; then the page's image
_FRAME: Final = struct.Struct(">6I")
_MAGIC, _VERSION = 0x377F0682, 3007000
_NATIVE: Final = ">" if sys.byteorder == "big" else "<"
#: of the ``-shm`` file: two equal heads, then what a checkpoint has copied
_INDEX: Final = struct.Struct("=16xI12x8s2I48xI")
_INDEX_HEAD = 48
_LONGEST_LIFE = 2**20


@dataclass(frozen=True, slots=True)
class Log:
    """``latest``: where in ``data`` the last sound image of each page begins. ``earlier``: the same for what is left of
    earlier generations, which the database had got. ``damaged``: where images begin that do not verify and were not
    written again since, and of which page, which may be wrong too. ``missing``: frames that were committed and are
    gone. ``pages``: of the database after the last transaction, 0 when unknown. ``fault``: why SQLite would lose
    something, empty when it would not. ``foreign``: it is the log of another database.
    """

    data: Bytes = field(default=b"", repr=False)
    page_bytes: int = 0
    latest: Mapping[int, int] = field(default_factory=dict, repr=False)
    earlier: Mapping[int, int] = field(default_factory=dict, repr=False)
    damaged: Mapping[int, int] = field(default_factory=dict)
    missing: int = 0
    pages: int = 0
    fault: str = ""
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class _Committed:
    """From the ``-shm`` file: how many frames were committed, and how many of them the database has by now."""

    frames: int
    copied: int
    salts: Salts


def page_bytes(database: bytes) -> int:
    """The page size that the head of a database file names, 0 when that is none."""
    size = int.from_bytes(database[16:18], "big")
    size = 65536 if size == 1 else size
    return size if database.startswith(b"SQLite format 3\0") and size >= 512 and not size & (size - 1) else 0


def read(
    data: Bytes, index: bytes | None, database: bytes, size: int, *, usual_page_bytes: int, thorough: bool = True
) -> Log:
    """``data`` and ``index``: the ``-wal`` and ``-shm`` files (None: there is none). ``database``: the first bytes of
    that file, which has ``size``. Not ``thorough``: without ``earlier``.
    """
    head = _HEAD.unpack(data[: _HEAD.size].ljust(_HEAD.size, b"\0"))
    known = head[0] & ~1 == _MAGIC and head[1] == _VERSION
    order = (">" if head[0] & 1 else "<") if known else _NATIVE
    sound = known and _sum(data[:24], order) == head[6:]
    page = head[2] if sound else page_bytes(database) or usual_page_bytes
    frames = _Frames(data, page, order, head[6:])
    committed = _committed(index or b"")
    sound = sound and not frames.of_another_head(head[4:6], head[3])
    frames.salts = head[4:6] if sound else frames.first_salts(committed)
    if committed and sound and _is_older(committed.salts, frames.salts, head[3]):
        committed = None  # after a loss of power the index may be one of long ago
    swapped = committed is not None and committed.salts != frames.salts
    ours = None if swapped else committed

    by_sqlite = frames.readable() if sound else 0
    if ours and ours.frames == by_sqlite:
        end = last = by_sqlite  # what follows belongs to transactions that never ended
    else:
        last = frames.last_commit()
        end = max(last, ours.frames if ours else 0)
    if index is None:  # no kill leaves a log without its index: somebody copied or cut it
        end = max(end, frames.last_of_ours())

    latest, damaged = frames.images(end, ours.copied if ours else 0)
    missing = max(0, end - max(frames.count, ours.copied if ours else 0))
    if committed and swapped:
        missing = max(0, committed.frames - committed.copied)
        swapped = committed.frames > 0
    pages = frames.heads[last - 1][1] if last else 0
    # A database of ours never shrinks.
    foreign = swapped or page != (page_bytes(database) or page) or 0 < pages < size // page
    fault = ""
    if not frames.count:
        fault = "the log is gone" if missing else ""
    elif not sound:
        fault = "the head of the log is damaged"
    elif foreign:
        fault = "the log belongs to another database"
    elif end > by_sqlite:
        fault = "the log is damaged" if last > by_sqlite else "the end of the log is missing"
    return Log(
        data=frames.data,
        page_bytes=page,
        latest=latest,
        earlier=frames.images_before() if thorough else {},
        damaged=damaged,
        missing=missing,
        pages=pages,
        fault=fault,
        foreign=foreign and frames.count > 0,
    )


class _Frames:
    """All frames of a log, also those of earlier generations that stand behind the last one, which has ``salts``."""

    def __init__(self, data: Bytes, page: int, order: str, sums: Salts) -> None:
        size = _FRAME.size + page
        rest = max(0, len(data) - _HEAD.size) % size
        # A frame that was cut is a damaged one.
        self.data = data[:].ljust(len(data) - rest + size, b"\0") if rest else data
        self.count = max(0, len(self.data) - _HEAD.size) // size
        self.salts: Salts = (0, 0)
        self._page, self._order, self._sums = page, order, sums
        self.heads = [_FRAME.unpack_from(self.data, self._image(k) - _FRAME.size) for k in range(self.count)]
        self._chained = dict[int, bool]()

    def readable(self) -> int:
        """How many SQLite would read: up to the last transaction that ends before something does not verify."""
        end = 0
        for k, head in enumerate(self.heads):
            if not self._is_valid(k):
                break
            if head[1]:
                end = k + 1
        return end

    def last_commit(self) -> int:
        """How many there are up to the last that ends a transaction."""
        return next((k + 1 for k in reversed(range(self.count)) if self.heads[k][1] and self._is_valid(k)), 0)

    def last_of_ours(self) -> int:
        return next((k + 1 for k in reversed(range(self.count)) if self.heads[k][2:4] == self.salts), 0)

    def of_another_head(self, salts: Salts, generations: int) -> bool:
        """Are all sound frames of a log that this head does not begin?"""
        foreign = False
        for k, head in enumerate(self.heads):
            if self._is_chained(k):
                if head[2:4] == salts:
                    return False
                foreign |= not _is_older(head[2:4], salts, generations)
        return foreign

    def first_salts(self, committed: _Committed | None) -> Salts:
        """The salts of the last generation, which begins the file, when its head does not say them."""
        first = self.heads[next(filter(self._is_chained, range(self.count)), 0)][2:4] if self.count else (0, 0)
        if committed and committed.frames:
            stale = self.count == 0 or _is_older(first, committed.salts, _LONGEST_LIFE)
            if stale or any(head[2:4] == committed.salts for head in self.heads):
                return committed.salts
        return first

    def images(self, end: int, copied: int) -> tuple[dict[int, int], dict[int, int]]:
        """``Log.latest`` and ``Log.damaged``. The first ``copied`` frames are in the database, too."""
        latest, damaged = dict[int, int](), dict[int, int]()
        for k, (page, *_) in enumerate(self.heads[:end]):
            if self._is_valid(k):
                latest[page] = self._image(k)
            elif k < copied:
                latest.pop(page, None)
            else:
                damaged[self._image(k)] = page
        return latest, {offset: page for offset, page in damaged.items() if offset > latest.get(page, 0)}

    def images_before(self) -> dict[int, int]:
        """``Log.earlier``."""
        ages = {k: (self.salts[0] - self.heads[k][2]) % 2**32 for k in range(self.count) if self._is_chained(k)}
        newest_last = sorted((-age, k) for k, age in ages.items() if 0 < age <= _LONGEST_LIFE)
        return {self.heads[k][0]: self._image(k) for _, k in newest_last}

    def _image(self, k: int) -> int:
        return _HEAD.size + k * (_FRAME.size + self._page) + _FRAME.size

    def _is_valid(self, k: int) -> bool:
        return self.heads[k][2:4] == self.salts and self._is_chained(k)

    def _is_chained(self, k: int) -> bool:
        """Does the sum of this frame follow from that of the one before?"""
        if k not in self._chained:
            image = self._image(k)
            sums = self.heads[k - 1][4:6] if k else self._sums
            sums = _sum(self.data[image - _FRAME.size : image - _FRAME.size + 8], self._order, sums)
            sums = _sum(self.data[image : image + self._page], self._order, sums)
            self._chained[k] = self.heads[k][0] > 0 and sums == self.heads[k][4:6]
        return self._chained[k]


def _committed(index: bytes) -> _Committed | None:
    """None when the writer died while it wrote this down, or before."""
    if len(index) < _INDEX.size or index[:_INDEX_HEAD] != index[_INDEX_HEAD : 2 * _INDEX_HEAD] or not index[12]:
        return None
    frames, salts, *sums, copied = _INDEX.unpack_from(index)
    if _sum(index[:40], _NATIVE) != tuple(sums):
        return None
    first, second = struct.unpack(">2I", salts)
    return _Committed(frames, copied, (first, second))


def _is_older(salts: Salts, than: Salts, generations: int) -> bool:
    """The first salt grows by one with each generation of a file; the second is random."""
    return 0 < (than[0] - salts[0]) % 2**32 <= generations


def _sum(data: bytes, order: str, before: Salts = (0, 0)) -> Salts:
    """SQLite's sum over pairs of words: each word is added to its own total, and to that the other total."""
    first, second = before
    for one, other in struct.iter_unpack(f"{order}2I", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
