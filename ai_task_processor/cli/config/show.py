"""Prints the effective settings: a table on a terminal, aligned text in a pipe, or JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ai_task_processor.cli.config.env_file import env_file
from ai_task_processor.cli.config.rows import Row, fields_of, rows
from ai_task_processor.cli.config.schema import schema
from ai_task_processor.core.checks import printable
from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import Group
from ai_task_processor.core.plugins import built_in_groups, read_selected
from ai_task_processor.core.settings import CORE
from ai_task_processor.ops import masking
from ai_task_processor.processors.factory import ProcessorFactory

EX_OK, EX_CONFIG = 0, 78
#: characters of a value in the table; JSON has all
MAX_VALUE: Final = 60


def show(arguments: argparse.Namespace) -> int:
    """Print; returns the exit code: 78 when the settings are wrong, which goes to stderr after the table."""
    if arguments.env:
        print(env_file(_with_core(built_in_groups())), end="", flush=True)
        return EX_OK
    factory = ProcessorFactory()
    reading, declared = read_selected(groups=factory.settings_groups, chats=factory.chats_with)
    groups = _with_core(declared)
    if arguments.schema:
        print(json.dumps(schema([*groups, *built_in_groups()]), indent=2, ensure_ascii=False), flush=True)
        return EX_OK
    others = built_in_groups() if arguments.all else ()
    secrets = reading.origins.secrets({name: field for name, _, field, _ in fields_of([*groups, *others])})
    mask = masking.Masker(secrets)
    _print(list(rows(groups, others, reading.origins, mask)), as_json=arguments.json)
    try:
        settings = reading.settings(declared)
        factory.configure(settings)
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"ai-task-processor: {printable(mask(problem))}", file=sys.stderr)
        return EX_CONFIG
    for warning in (*settings.warnings, *factory.warnings):
        print(f"ai-task-processor: warning: {printable(mask(warning))}", file=sys.stderr)
    return EX_OK


def _with_core(groups: Sequence[type[Group]]) -> list[type[Group]]:
    """These groups and the core's, in the order of the documentation."""
    first, *rest = CORE.values()
    return list(dict.fromkeys((first, *groups, *rest)))


def _print(found: Sequence[Row], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(row) for row in found], indent=2, ensure_ascii=False), flush=True)
        return
    lines = [(row.name, _value(row), row.origin if row.read else f"{row.origin} (not read)") for row in found]
    if sys.stdout.isatty():
        _table(found, lines)
        return
    widths = [max(len(line[column]) for line in lines) for column in (0, 1)]
    for name, value, origin in lines:
        print(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


def _table(found: Sequence[Row], lines: Sequence[tuple[str, str, str]]) -> None:
    table = Table("setting", "value", "origin", box=None, pad_edge=False, header_style="bold")
    for row, (name, value, origin) in zip(found, lines, strict=True):
        style = "dim" if row.origin in ("default", "not set") or not row.read else ""
        table.add_row(Text(name), Text(value), Text(origin), style=style)
    Console(highlight=False).print(table)


def _value(row: Row) -> str:
    text = printable(row.value)
    return text if len(text) <= MAX_VALUE else f"{text[: MAX_VALUE - 1]}…"
