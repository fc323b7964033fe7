"""Checks the write-ahead log of a database that no process has open, before SQLite opens it.

SQLite reads a log up to the first frame that does not verify and silently drops the rest; it deletes a log with a
damaged head, or without its database. This module only reads: which frames are sound, and which are missing.
Pure functions over bytes. Formats: https://www.sqlite.org/fileformat2.html#walformat, and
https://www.sqlite.org/walformat.html for the ``-shm`` file, which after a kill still shows what was committed.
"""

import struct
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from mmap import mmap
from typing import Final

Bytes = bytes | mmap
Salts = tuple[int, int]

#: magic, version, page size, number of the generation, two salts, two checksums of the fields before
_HEAD: Final = struct.Struct(">8I")
#: page, size of the database in pages if it ends a transaction, else 0, two salts, two checksums; then the page's image
_FRAME: Final = struct.Struct(">6I")
_MAGIC, _VERSION = 0x377F0682, 3007000
_NATIVE: Final = ">" if sys.byteorder == "big" else "<"
#: of the ``-shm`` file: two equal heads, then the number of frames that checkpoints have copied
_INDEX: Final = struct.Struct("=16xI12x8s2I48xI")
_INDEX_HEAD = 48
_LONGEST_LIFE = 2**20


@dataclass(frozen=True, slots=True)
class Log:
    """``latest``: offset in ``data`` of the last sound image, by page. ``earlier``: the same for the remains of earlier
    generations, which were already copied into the database. ``damaged``: page number (perhaps wrong) by offset, of
    images that do not verify and were not written again. ``missing``: number of committed frames that are gone.
    ``pages``: size of the database after the last transaction, 0 when unknown. ``fault``: why SQLite would lose data,
    empty when it would not. ``foreign``: it is the log of another database.
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
    """From the ``-shm`` file: how many frames were committed, and how many of them were copied into the database."""

    frames: int
    copied: int
    salts: Salts


def page_bytes(database: bytes) -> int:
    """The page size in the head of a database file; 0 when it is no such head."""
    size = int.from_bytes(database[16:18], "big")
    size = 65536 if size == 1 else size
    return size if database.startswith(b"SQLite format 3\0") and size >= 512 and not size & (size - 1) else 0


def read(
    data: Bytes, index: bytes | None, database: bytes, size: int, *, usual_page_bytes: int, thorough: bool = True
) -> Log:
    """Parse a log. ``data`` and ``index``: the ``-wal`` and ``-shm`` files (None: there is none). ``database``: the
    first bytes of that file, which has ``size`` bytes. Not ``thorough``: without ``earlier``.
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
        committed = None  # after a loss of power the index may be older than the log
    swapped = committed is not None and committed.salts != frames.salts
    ours = None if swapped else committed

    by_sqlite = frames.readable() if sound else 0
    if ours and ours.frames == by_sqlite:
        end = last = by_sqlite  # the frames behind it belong to transactions that were not committed
    else:
        last = frames.last_commit()
        end = max(last, ours.frames if ours else 0)
    if index is None:  # a kill always leaves the index: the log was copied or truncated
        end = max(end, frames.last_of_ours())

    latest, damaged = frames.images(end, ours.copied if ours else 0)
    missing = max(0, end - max(frames.count, ours.copied if ours else 0))
    if committed and swapped:
        missing = max(0, committed.frames - committed.copied)
        swapped = committed.frames > 0
    pages = frames.heads[last - 1][1] if last else 0
    # Our databases never shrink.
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
    """All frames of a log: the last generation, which has ``salts``, and the remains of earlier ones behind it."""

    def __init__(self, data: Bytes, page: int, order: str, sums: Salts) -> None:
        size = _FRAME.size + page
        rest = max(0, len(data) - _HEAD.size) % size
        # A truncated frame counts as damaged.
        self.data = data[:].ljust(len(data) - rest + size, b"\0") if rest else data
        self.count = max(0, len(self.data) - _HEAD.size) // size
        self.salts: Salts = (0, 0)
        self._page, self._order, self._sums = page, order, sums
        self.heads = [_FRAME.unpack_from(self.data, self._image(k) - _FRAME.size) for k in range(self.count)]
        self._chained = dict[int, bool]()

    def readable(self) -> int:
        """How many frames SQLite would read: up to the last commit before a frame that does not verify."""
        end = 0
        for k, head in enumerate(self.heads):
            if not self._is_valid(k):
                break
            if head[1]:
                end = k + 1
        return end

    def last_commit(self) -> int:
        """The number of frames up to the last valid one that ends a transaction."""
        return next((k + 1 for k in reversed(range(self.count)) if self.heads[k][1] and self._is_valid(k)), 0)

    def last_of_ours(self) -> int:
        return next((k + 1 for k in reversed(range(self.count)) if self.heads[k][2:4] == self.salts), 0)

    def of_another_head(self, salts: Salts, generations: int) -> bool:
        """Whether all sound frames belong to a log with another head."""
        foreign = False
        for k, head in enumerate(self.heads):
            if self._is_chained(k):
                if head[2:4] == salts:
                    return False
                foreign |= not _is_older(head[2:4], salts, generations)
        return foreign

    def first_salts(self, committed: _Committed | None) -> Salts:
        """The salts of the last generation, which begins the file, when its head is damaged."""
        first = self.heads[next(filter(self._is_chained, range(self.count)), 0)][2:4] if self.count else (0, 0)
        if committed and committed.frames:
            stale = self.count == 0 or _is_older(first, committed.salts, _LONGEST_LIFE)
            if stale or any(head[2:4] == committed.salts for head in self.heads):
                return committed.salts
        return first

    def images(self, end: int, copied: int) -> tuple[dict[int, int], dict[int, int]]:
        """``Log.latest`` and ``Log.damaged``. The database already has the first ``copied`` frames."""
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
        """Whether the checksum of this frame follows from that of the frame before."""
        if k not in self._chained:
            image = self._image(k)
            sums = self.heads[k - 1][4:6] if k else self._sums
            sums = _sum(self.data[image - _FRAME.size : image - _FRAME.size + 8], self._order, sums)
            sums = _sum(self.data[image : image + self._page], self._order, sums)
            self._chained[k] = self.heads[k][0] > 0 and sums == self.heads[k][4:6]
        return self._chained[k]


def _committed(index: bytes) -> _Committed | None:
    """Parse the ``-shm`` file; None when it is incomplete."""
    if len(index) < _INDEX.size or index[:_INDEX_HEAD] != index[_INDEX_HEAD : 2 * _INDEX_HEAD] or not index[12]:
        return None
    frames, salts, *sums, copied = _INDEX.unpack_from(index)
    if _sum(index[:40], _NATIVE) != tuple(sums):
        return None
    first, second = struct.unpack(">2I", salts)
    return _Committed(frames, copied, (first, second))


def _is_older(salts: Salts, than: Salts, generations: int) -> bool:
    """Compare generations: the first salt grows by one with each; the second is random."""
    return 0 < (than[0] - salts[0]) % 2**32 <= generations


def _sum(data: bytes, order: str, before: Salts = (0, 0)) -> Salts:
    """SQLite's checksum over pairs of words: each word is added to its own total, and to that the other total."""
    first, second = before
    for one, other in struct.iter_unpack(f"{order}2I", data):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
