"""Fills the generated parts of pages, which stand between two comments of Markdown."""

import re
from collections.abc import Iterable, Iterator

COMMAND = "python -m docs"
#: the name of a generated part, and its lines
Part = tuple[str, Iterable[str]]


def filled(page: str, parts: Iterable[Part]) -> str:
    """The page with its parts as they must be. Raises ``ValueError`` for a part that it has no comments for."""
    for name, lines in parts:
        begin, end = f"<!-- {name}: written by {COMMAND} -->\n", f"<!-- end of {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{begin!r} and {end!r} must be in the page")
        page = "".join((before, begin, "\n".join(lines), "\n", end, after))
    return page


def named(page: str, kind: str) -> Iterator[str]:
    """What the parts ``kind ...`` of a page are about."""
    yield from re.findall(rf"^<!-- {kind} (.+): written by {COMMAND} -->$", page, flags=re.MULTILINE)


def table(*header: str, rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table of Markdown."""
    yield f"| {' | '.join(header)} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |"


def code(text: str) -> str:
    """A text of a docstring, on one line."""
    return " ".join(text.replace("``", "`").split())
