"""Reads the settings, once at the start, from the environment, ``.env`` and the profile of the source."""

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from pydantic.fields import FieldInfo

from ai_task_processor.core import environment
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import G, Group, names, parse
from ai_task_processor.core.origins import Origins
from ai_task_processor.core.settings import CORE, Settings
from ai_task_processor.core.spelling import misspelled

NO_DEFAULTS: Mapping[str, str] = MappingProxyType({})


class Reading:
    """A snapshot of the environment and of ``.env``. ``problems``: every error so far, one line each.

    ``origins``: which of them sets a variable.
    """

    def __init__(
        self, environ: Mapping[str, str] | None, dotenv: Path | None, defaults: Mapping[str, str] = NO_DEFAULTS
    ) -> None:
        below = environment.read_dotenv(dotenv) if dotenv else environment.Dotenv()
        above = os.environ if environ is None else environ
        self.problems = list(below.problems)
        self._dollars = below.warnings
        self._known: dict[str, FieldInfo] = {}
        filled_above, filled_below = environment.filled(above), environment.filled(below.texts)
        empty = frozenset({*above, *below.texts} - {*filled_above, *filled_below})
        self.origins = Origins(filled_above, filled_below, file=dotenv, lines=below.lines, empty=empty)
        self.default(defaults)

    def default(self, texts: Mapping[str, str]) -> None:
        """Set variables that neither the environment nor ``.env`` sets."""
        self._defaults = texts
        self.origins = replace(self.origins, profile=environment.filled(texts))

    def parse(self, group: type[G]) -> G | None:
        """The group, or None when it has errors."""
        self._known |= {name: each for each in group.model_fields.values() for name in names(each)}
        return parse(group, self.origins.layers, self.problems)

    def settings(self, groups: Iterable[type[Group]]) -> Settings:
        """The core's groups and these. Raises ``ConfigurationError``."""
        kinds = dict.fromkeys((*CORE.values(), *groups))
        parsed: dict[type[Group], Any] = {kind: self.parse(kind) for kind in kinds}
        unknown = self._misspelled()
        if self.problems:
            self.problems += unknown
        self.check()
        warnings = [line for name, line in self._dollars.items() if name in self._known]
        warnings += [line for group in parsed.values() for line in group.warnings()]
        warnings = [*self._explained(warnings), *unknown]
        core = {name: parsed.pop(group) for name, group in CORE.items()}
        return Settings(**core, components=parsed, warnings=tuple(warnings), defaults=self._defaults)

    def _explained(self, lines: Iterable[str]) -> Iterable[str]:
        """Distinct lines, each with value, origin and default of the variable that it is about."""
        return dict.fromkeys(self.origins.explained(line, self._known) for line in lines)

    def _misspelled(self) -> list[str]:
        """A line for each variable that looks like one of ours and is none."""
        given = {**self.origins.above, **self.origins.below}
        return [
            f"{name} is no setting, and set in {self.origins.where(name)}: did you mean {meant}?"
            for name, meant in misspelled(given, self._known).items()
        ]

    def check(self) -> None:
        """Raises ``ConfigurationError`` when there are errors."""
        if self.problems:
            raise ConfigurationError(*self._explained(self.problems))


def load_settings(
    environ: Mapping[str, str] | None = None,
    dotenv: Path | None = Path(".env"),
    *,
    groups: Collection[type[Group]],
    defaults: Mapping[str, str] = NO_DEFAULTS,
) -> Settings:
    """The core's groups and those of the selected components. ``defaults``: see ``Settings``.

    Raises ``ConfigurationError`` with a line for every error; ``core.origins`` says which values it may show.
    """
    return Reading(environ, dotenv, defaults).settings(groups)


def load_group(group: type[G], environ: Mapping[str, str] | None = None, dotenv: Path | None = Path(".env")) -> G:
    """A single group, for commands that need no other. Raises ``ConfigurationError``."""
    reading = Reading(environ, dotenv)
    parsed = reading.parse(group)
    reading.check()
    return cast("G", parsed)
