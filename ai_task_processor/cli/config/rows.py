"""What is known of each setting: value, origin, default, meaning. Pure."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from ai_task_processor.core.groups import Group, is_secret, names
from ai_task_processor.core.origins import Origins

#: what a secret has as its value
SET, UNSET = "set", "unset"
#: by the last part of a field's name, which has the unit (``timeout_s``)
_UNITS = {"s": "seconds", "bytes": "bytes", "mb": "MiB", "tokens": "tokens"}


@dataclass(frozen=True, slots=True)
class Row:
    """A setting. ``value``: its text, ``set`` or ``unset`` for a secret, empty when there is none.

    ``origin``: ``default``, ``not set``, ``environment``, ``profile``, ``.env, line 12``; for a secret out of a file
    that file, and in brackets where it is named. ``read``: a selected component reads it.
    """

    name: str
    value: str
    origin: str
    default: str
    unit: str
    meaning: str
    section: str
    secret: bool
    read: bool


def fields_of(groups: Iterable[type[Group]]) -> Iterator[tuple[str, str, FieldInfo, type[Group]]]:
    """Variable, name of the field, field and group of each setting, once, in the order of the groups."""
    found = set[str]()
    for group in groups:
        for key, field in group.model_fields.items():
            name = names(field)[0]
            if name not in found:
                found.add(name)
                yield name, key, field, group


def unit(key: str) -> str:
    """The unit of a field; empty when it has none."""
    return _UNITS.get(key.rpartition("_")[2], "")


def default_of(field: FieldInfo) -> str:
    """The default as text; empty when there is none."""
    return field.default if isinstance(field.default, str) else ""


def rows(
    groups: Iterable[type[Group]],
    others: Iterable[type[Group]],
    origins: Origins,
    mask: Callable[[str], str],
) -> Iterator[Row]:
    """The settings of these groups, then those that only the others read. ``mask`` hides secrets in values."""
    read = {name for name, *_ in fields_of(groups)}
    for name, key, field, group in fields_of([*groups, *others]):
        source, text = origins.source(field)
        default, secret = default_of(field), is_secret(field)
        value = (UNSET if text is None else SET) if secret else mask(default if text is None else text)
        origin = origins.place(source) if text is not None or default else "not set"
        if secret and text is not None and source.endswith("_FILE"):
            origin = f"{mask(text)} ({source}, {origin})"
        yield Row(name, value, origin, default, unit(key), field.description or "", group.section, secret, name in read)
