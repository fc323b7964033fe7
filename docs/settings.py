"""The tables of settings in ``configuration.md``, from the groups that read them.

A part ``settings of A, B`` has the variables of the groups ``A`` and ``B`` that no part before it has.
"""

from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from ai_task_processor.core.groups import Encrypted, is_secret, names
from ai_task_processor.core.plugins import built_in_groups
from ai_task_processor.core.settings import CORE
from docs.generated import Part, named, table

HEADER = ("setting", "default", "value", "meaning")


def parts(page: str) -> Iterator[Part]:
    """One for each part that the page names."""
    groups = {group.__name__: group for group in (*CORE.values(), *built_in_groups())}
    shown: set[str] = set()
    for about in named(page, "settings of"):
        rows: dict[str, FieldInfo] = {}
        for field in (field for name in about.split(", ") for field in groups[name].model_fields.values()):
            rows.setdefault(names(field)[0], field)
        fresh = {name: field for name, field in rows.items() if name not in shown}
        shown |= fresh.keys()
        yield f"settings of {about}", table(*HEADER, rows=(_row(name, field) for name, field in fresh.items()))


def _row(name: str, field: FieldInfo) -> Iterator[str]:
    yield f"`{name}`"
    yield "required" if field.is_required() else f"`{field.default}`" if field.default else "none"
    yield _value(field)
    yield field.description or ""


def _value(field: FieldInfo) -> str:
    """What the text of a value must be."""
    kind = _plain(field.annotation)
    if is_secret(field):
        return "the path of a secret" if len(set(names(field))) == 1 else "secret"
    if Encrypted in (*field.metadata, *_metadata(field.annotation)):
        return "URL"
    if get_origin(kind) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(kind))
    if kind is bool:
        return "`true`, `false`"
    bounds = {key: getattr(part, key) for part in field.metadata for key in ("ge", "gt", "le") if hasattr(part, key)}
    if kind is ByteSize:
        return f"size, {_range({key: _size(bound) for key, bound in bounds.items()})}"
    if kind in (int, float):
        return f"{'whole number' if kind is int else 'number'}, {_range(bounds)}"
    return "path" if kind is Path else "list" if get_origin(kind) is tuple else "text"


def _plain(kind: object) -> object:
    """A type without its metadata and without None."""
    if get_origin(kind) is Annotated:
        return _plain(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return _plain(next(each for each in get_args(kind) if each is not type(None)))
    return kind


def _metadata(kind: object) -> list[object]:
    """What is beside the types in a type."""
    arguments = get_args(kind)
    own = list(arguments[1:]) if get_origin(kind) is Annotated else []
    return [*own, *(each for argument in arguments for each in _metadata(argument))]


def _range(bounds: dict[str, object]) -> str:
    lowest = f"{bounds['ge']}" if "ge" in bounds else f"above {bounds['gt']}"
    return f"{lowest} to {bounds['le']}"


def _size(count: int) -> str:
    return ByteSize(count).human_readable().replace(".0", "") if count else "0"
