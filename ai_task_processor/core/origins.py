"""Where the text of a setting comes from, and what a message may show of it.

A message shows a short plain text (a number, a word) and scheme and host of a URL. It shows no secret, and no longer
text: that may be a secret in the wrong variable.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic.fields import FieldInfo

from ai_task_processor.core.checks import halves
from ai_task_processor.core.groups import Layers, is_secret, names

#: a problem that names the wrong part of a value itself
_NAMED = re.compile(r" \(('[^']*')\)$")
_PLAIN = re.compile(r"[\w.,%+-]{1,12}")
_URL = re.compile(r"(?P<shown>[a-z][a-z0-9+]{1,20}://[\w.-]{1,100}(:\d{1,6})?)(?P<path>/[^@]*)?")
#: longer defaults are not repeated in a message
MAX_DEFAULT = 40


@dataclass(frozen=True, slots=True)
class Origins:
    """Which layer sets a variable: ``above`` the environment, ``below`` ``.env``, ``profile`` that of the source.

    ``lines``: of ``file``, by variable. ``empty``: variables of both that are set to nothing.
    """

    above: Mapping[str, str]
    below: Mapping[str, str]
    profile: Mapping[str, str] = field(default_factory=dict)
    file: Path | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    empty: frozenset[str] = frozenset()

    @property
    def layers(self) -> Layers:
        """As groups of settings are parsed."""
        return self.above, {**self.profile, **self.below}

    def place(self, name: str) -> str:
        """``environment``, ``.env, line 12``, ``profile``, or ``default`` when nothing sets it."""
        if name in self.above:
            return "environment"
        if name in self.below:
            return f"{self.file}, line {self.lines.get(name, 0)}"
        return "profile" if name in self.profile else "default"

    def where(self, name: str) -> str:
        """The same in a sentence, after "in"."""
        place = self.place(name)
        return {"environment": "the environment", "profile": "the profile of the source"}.get(place, place)

    def source(self, each: FieldInfo) -> tuple[str, str | None]:
        """The variable that a field is read from, which may be the ``<NAME>_FILE``, and its text; None if not set."""
        for layer in self.layers:
            for name in names(each):
                if name in layer:
                    return name, layer[name]
        return names(each)[0], None

    def explained(self, line: str, fields: Mapping[str, FieldInfo]) -> str:
        """A line about the variable that it begins with, and its value, origin and default before the remedy."""
        name, (problem, remedy) = line.partition(" ")[0].rstrip(","), halves(line)
        text = next((layer[name] for layer in self.layers if name in layer), None)
        if name not in fields or (text is None and name not in self.empty):
            return line
        if text is None:
            said = f"set to nothing in {self._named(name)}"
        else:
            named = _NAMED.search(problem)
            problem = problem[: named.start()] if named else problem
            value = named[1] if named else "set" if is_secret(fields[name]) else shown(text, self.secrets(fields))
            said = f"{value} in {self.where(name)}{_default(fields[name])}"
        return f"{problem} ({said}): {remedy}" if remedy else f"{problem} ({said})"

    def _named(self, name: str) -> str:
        return f"{self.file}, line {self.lines[name]}" if name in self.lines else "the environment"

    def secrets(self, fields: Mapping[str, FieldInfo]) -> list[str]:
        """The texts of those that are secret, as far as they are set."""
        secret = [name for name, each in fields.items() if is_secret(each)]
        return [layer[name] for layer in self.layers for name in secret if name in layer]


def _default(each: FieldInfo) -> str:
    text = each.default if isinstance(each.default, str) else ""
    return f"; default {text}" if 0 < len(text) <= MAX_DEFAULT else ""


def shown(text: str, secrets: Iterable[str] = ()) -> str:
    """What a message shows of a value: it in quotation marks, scheme and host of a URL, or its length."""
    if _PLAIN.fullmatch(text) and not any(text in secret or secret in text for secret in secrets):
        return f"'{text}'"
    url = _URL.fullmatch(text)
    if url and not any(secret in url["shown"] for secret in secrets):
        return f"'{url['shown']}{'/…' if url['path'] not in (None, '/') else ''}'"
    return f"{len(text)} characters"
