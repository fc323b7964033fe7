"""Prompt templates: text with ``{{ field }}`` for a field of the task's content. No code, no loops, no conditions.

``{{ a.b }}`` is the field ``b`` of the object ``a``; ``{{ field? }}`` is empty when the field is missing or null. A
string is inserted as it is, everything else as JSON. What is inserted is not a template again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ai_task_processor.core import codec
from ai_task_processor.core.errors import TaskError

_PLACE = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_NAME = re.compile(r"([A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*)(\?)?")


@dataclass(frozen=True, slots=True)
class Template:
    """Literal texts with a place between two of them. A place: the path of its field, and whether it is optional."""

    literals: tuple[str, ...]
    places: tuple[tuple[tuple[str, ...], bool], ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Raises ``ValueError`` for a place that is no name of a field."""
        pieces = _PLACE.split(text)
        places = []
        for name in pieces[1::2]:
            match = _NAME.fullmatch(name)
            if match is None:
                raise ValueError(f"{{{{ {name[:40]} }}}} is no name of a field: write {{{{ name }}}} or {{{{ a.b? }}}}")
            places.append((tuple(match[1].split(".")), match[2] is not None))
        return cls(tuple(pieces[::2]), tuple(places))

    def render(self, content: Mapping[str, object]) -> str:
        """Raises ``TaskError`` (``invalid_content``) when a field is missing."""
        first, *others = self.literals
        pieces = [first]
        for (path, optional), literal in zip(self.places, others, strict=True):
            pieces += [_shown(field(content, path), path, optional=optional), literal]
        return "".join(pieces)


def field(content: object, path: tuple[str, ...]) -> object:
    """The field at the end of the path; None when there is none."""
    for name in path:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def _shown(value: object, path: tuple[str, ...], *, optional: bool) -> str:
    if value is None:
        if optional:
            return ""
        raise TaskError("invalid_content", f"content has no {'.'.join(path)}")
    return value if isinstance(value, str) else codec.dumps(value).decode()
