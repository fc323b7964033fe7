"""``ai-task-processor sources …``: lists sources, shows profiles, and tries one without reporting anything."""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.text import Text

from ai_task_processor.core import plugins
from ai_task_processor.core.checks import printable
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.plugins import PACKAGE, Plugin
from ai_task_processor.core.profiles import FOLDER, is_path
from ai_task_processor.core.reading import load_group
from ai_task_processor.core.settings import PartsSettings
from ai_task_processor.core.variables import variables_of

EX_OK = 0
SCHEMA = FOLDER / "profile.schema.json"


@dataclass(frozen=True, slots=True)
class Row:
    """A source. ``kind``: of its profile, or the package that it is in. ``types``: None when it has no usual ones.

    ``broken``: why it cannot be used; then only ``name`` and ``kind`` are known.
    """

    name: str
    kind: str
    selected: bool
    types: Sequence[str] | None = None
    description: str = ""
    broken: str = ""


def main(arguments: argparse.Namespace) -> int:
    """Carry out the action; returns the exit code."""
    actions = {"list": _list, "show": _show, "check": _check, "schema": _schema, "prepare": _prepare}
    return actions[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> int:
    console = Console(highlight=False, force_terminal=sys.stdout.isatty())
    for row in rows(load_group(PartsSettings).task_source):
        if arguments.json:
            print(json.dumps(asdict(row), ensure_ascii=False), flush=True)
            continue
        types = "any" if row.types is None else ", ".join(row.types)
        lines = [f"broken: {row.broken}"] if row.broken else [row.description, f"types: {types}"]
        head = f"{'*' if row.selected else ' '} {row.name:<20} {row.kind}"
        console.print(Text(printable(head), "bold" if row.selected else ""), soft_wrap=True)
        for line in filter(None, lines):
            console.print(Text(f"    {printable(line)}", "red" if row.broken else ""), soft_wrap=True)
    return EX_OK


def rows(selected: str) -> Iterator[Row]:
    """Every source by name, then the profile of the user that is selected."""
    found = plugins.candidates("sources")
    packages = Counter(plugin.entry_point.name for plugin in found)
    for plugin in found:
        name = plugin.entry_point.name
        row = _row(plugin, name == selected)
        yield row if packages[name] == 1 else Row(name, row.kind, row.selected, broken="two packages have this name")
    if is_path(selected):
        try:
            yield _row(plugins.find("sources", selected), True, selected)
        except ConfigurationError as error:
            yield Row(selected, "profile", True, broken="; ".join(sentences(error)))


def _row(plugin: Plugin, selected: bool, name: str = "") -> Row:
    name, kind = name or plugin.entry_point.name, plugin.package
    try:
        found = plugin.load()
        with plugin.being("described"):
            if plugin.profile is not None:
                profile = found.profile
                return Row(name, profile.kind, selected, profile.types, profile.description or "")
            types = None if (types := getattr(found, "task_types", None)) is None else sorted(map(str, types))
            description = (found.__doc__ or "").strip().partition("\n")[0]
            return Row(name, f"package {kind}", selected, types, description)
    except ConfigurationError as error:
        kind = "profile" if kind == PACKAGE else f"package {kind}"
        return Row(name, kind, selected, broken="; ".join(sentences(error)))


def _show(arguments: argparse.Namespace) -> int:
    plugin, found = found_source(arguments.name)
    if plugin.profile is None:
        print(f"{arguments.name} is a class of the package {plugin.package}, without a profile", file=sys.stderr)
    else:
        print(plugin.profile.read_text("utf-8"), end="", flush=True)
    print("\nSettings that it reads, with their defaults:", file=sys.stderr)
    groups = tuple(getattr(found, "settings_groups", ()))
    needed = {name for group in groups for name in required(group)}
    for variable in variables_of(groups):
        default = "required" if variable.name in needed else variable.default or "none"
        print(f"  {variable.name:<26} {default:<26} {variable.meaning}", file=sys.stderr)
    return EX_OK


def required(group: Any) -> Iterator[str]:
    """The variables of a group of settings without which it cannot be read."""
    yield from group.required({})
    yield from (str(field.validation_alias) for field in group.model_fields.values() if field.is_required())


def _check(arguments: argparse.Namespace) -> int:
    from ai_task_processor.cli import source_check

    return source_check.main(arguments)


def _prepare(arguments: argparse.Namespace) -> int:
    from ai_task_processor.cli import source_prepare

    return source_prepare.main(arguments)


def _schema(_arguments: argparse.Namespace) -> int:
    print(SCHEMA.read_text("utf-8"), end="", flush=True)
    return EX_OK


def found_source(name: str) -> tuple[Plugin, Any]:
    """The source with this name or path. Raises ``ConfigurationError``."""
    try:
        plugin = plugins.find("sources", name)
        return plugin, plugin.load()
    except ConfigurationError as error:
        raise ConfigurationError(*sentences(error)) from error


def sentences(error: ConfigurationError) -> Sequence[str]:
    """The problems of a source that an argument names, and not ``TASK_SOURCE``."""
    return [problem.removeprefix("TASK_SOURCE: ").removeprefix("TASK_SOURCE names ") for problem in error.problems]
