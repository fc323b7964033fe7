"""Reads rows and index entries of a damaged SQLite file page by page; SQLite stops at the first damaged page.

``fetch`` returns the image of a page by its number, None when there is none. All input is untrusted.
Format: https://www.sqlite.org/fileformat2.html#b_tree_pages
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

Fetch = Callable[[int], bytes | None]
Value = int | float | str | bytes | None

TABLE, INDEX = (5, 13), (2, 10)  # kinds of pages: inner ones and leaves
#: bytes of a value by its type code; above these are blobs (even) and texts (odd) of any length
_WIDTHS = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)


class Unreadable(Exception):
    """These bytes do not have the expected format."""


@dataclass(frozen=True, slots=True)
class Tree:
    """The pages of a table or an index, in order. ``whole``: no page was missing, of another kind, or seen twice."""

    pages: dict[int, None]
    whole: bool


def walk(fetch: Fetch, root: int, kinds: tuple[int, int]) -> Tree:
    pages, whole, todo = dict[int, None](), True, [root]
    while todo:
        number = todo.pop()
        image = fetch(number)
        if number in pages or image is None or image[0] not in kinds:
            whole = False
            continue
        pages[number] = None
        try:
            if image[0] == kinds[0]:
                todo += [_integer(image, 8), *(_integer(image, at) for at in reversed(_cells(image)))]
        except Unreadable:
            whole = False
    return Tree(pages, whole)


def free(fetch: Fetch) -> set[int]:
    """The pages in the free list, as far as it can be read."""
    found, first = set[int](), fetch(1)
    trunk = _integer(first, 32) if first else 0
    while trunk and trunk not in found and (image := fetch(trunk)):
        found.add(trunk)
        try:
            count = _integer(image, 4)
            found.update(struct.unpack_from(f">{count}I", image, 8))
        except struct.error:
            break
        trunk = _integer(image, 0)
    return found


def rows(image: bytes, fetch: Fetch) -> Iterator[tuple[int, tuple[Value, ...] | None]]:
    """(rowid, values) of a table's rows on a leaf page; None for values that cannot be read."""
    for cell in _readable_cells(image, TABLE[1]):
        number = 0
        try:
            size, at = _varint(image, cell)
            number, at = _varint(image, at)
            yield number, _values(_payload(image, at, size, len(image) - 35, fetch))
        except Unreadable:
            yield number, None


def entries(image: bytes, fetch: Fetch) -> Iterator[tuple[Value, ...]]:
    """The readable entries of an index on a page: the columns, and the rowid last."""
    kind = image[0] if image[0] in INDEX else -1  # not 0: overflow pages begin with it
    local = (len(image) - 12) * 64 // 255 - 23
    for cell in _readable_cells(image, kind):
        try:
            size, at = _varint(image, cell + (4 if kind == INDEX[0] else 0))
            yield _values(_payload(image, at, size, local, fetch))
        except Unreadable:
            continue


def _readable_cells(image: bytes, kind: int) -> tuple[int, ...]:
    try:
        return _cells(image) if image[0] == kind else ()
    except Unreadable:
        return ()


def _cells(image: bytes) -> tuple[int, ...]:
    """The offsets of the cells on a page."""
    try:
        (count,) = struct.unpack_from(">H", image, 3)
        return struct.unpack_from(f">{count}H", image, 12 if image[0] in (TABLE[0], INDEX[0]) else 8)
    except struct.error:
        raise Unreadable from None


def _integer(image: bytes, at: int) -> int:
    try:
        found: int = struct.unpack_from(">I", image, at)[0]
    except struct.error:
        raise Unreadable from None
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and the offset behind it."""
    value = 0
    for k, byte in enumerate(data[at : at + 9]):
        if k == 8:
            return (value << 8 | byte) - (1 << 64 if value >> 55 else 0), at + 9
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + k + 1
    raise Unreadable


def _payload(image: bytes, at: int, size: int, local: int, fetch: Fetch) -> bytes:
    """The content of a cell: from its page and from its overflow pages."""
    usable = len(image)
    here = size
    if size > local:
        least = (usable - 12) * 32 // 255 - 23
        here = least + (size - least) % (usable - 4)
        here = here if here <= local else least
    parts, seen = [image[at : at + here]], set[int]()
    left, following = size - here, _integer(image, at + here) if here < size else 0
    while left > 0:
        page = fetch(following)
        if not page or following in seen:
            raise Unreadable
        seen.add(following)
        parts.append(page[4 : 4 + left])
        left -= usable - 4
        following = _integer(page, 0)
    return b"".join(parts)


def _values(payload: bytes) -> tuple[Value, ...]:
    """A row in SQLite's record format."""
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    values = list[Value]()
    for kind in kinds:
        width = _WIDTHS[kind] if 0 <= kind < 10 else (kind - 12) // 2
        part = payload[at : at + width]
        at += width
        if len(part) < width or kind in (10, 11) or kind < 0:
            raise Unreadable
        values.append(_value(kind, part))
    return tuple(values)


def _value(kind: int, part: bytes) -> Value:
    if kind == 0:
        return None
    if kind in (8, 9):
        return kind - 8
    if kind == 7:
        return float(struct.unpack(">d", part)[0])
    if kind < 7:
        return int.from_bytes(part, "big", signed=True)
    if kind % 2 == 0:
        return part
    try:
        return part.decode()
    except UnicodeDecodeError:
        raise Unreadable from None
