"""The table of log events in ``logs.md``.

Meanings are those of ``ops/log_events.py``, levels and fields those of the code.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ai_task_processor.ops import log_events
from docs.generated import Part, code, table

PACKAGE = Path(log_events.__file__).parents[1]
LEVELS = ("debug", "info", "warning", "error", "critical")
#: keywords of a logger that are no fields
NO_FIELDS = {"exc_info"}


@dataclass(frozen=True, slots=True)
class Logged:
    """An event where it is logged."""

    event: str
    level: str
    fields: frozenset[str]


def sources() -> Iterator[str]:
    """The code of the daemon."""
    yield from (file.read_text("utf-8") for file in PACKAGE.rglob("*.py") if "sandbox" not in file.parts)


def logged(source: str) -> Iterator[Logged]:
    """The events that a module logs by a logger's method, or by a ``Condition``, which logs a begin and an end."""
    nodes = list(ast.walk(ast.parse(source)))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = {node: function for function in functions for node in ast.walk(function)}
    chosen = defaultdict[object, list[ast.expr]](list)
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            chosen[inside.get(node), node.targets[0].id].append(node.value)
    for call in (node for node in nodes if isinstance(node, ast.Call) and node.args):
        event = call.args[0]
        for level in _levels(call.func):
            named = chosen[inside.get(call), event.id] if isinstance(event, ast.Name) else [event]
            yield from (Logged(each, level, _keywords(call)) for one in named for each in _constants(one))
        if isinstance(call.func, ast.Name) and call.func.id == "Condition":
            named_level = ast.unparse(call.args[2]).rpartition(".")[2].lower() if len(call.args) > 2 else "warning"
            yield from (Logged(each, named_level, frozenset({"reason"})) for each in _constants(event))
            yield from (Logged(each, "info", frozenset({"after"})) for each in _constants(call.args[1]))


def _levels(function: ast.expr) -> Iterator[str]:
    """The level of ``log.info``, or those of ``(log.warning if changed else log.debug)``."""
    for branch in _branches(function):
        if isinstance(branch, ast.Attribute) and branch.attr in LEVELS:
            yield branch.attr


def _constants(argument: ast.expr) -> Iterator[str]:
    for branch in _branches(argument):
        if isinstance(branch, ast.Constant) and isinstance(branch.value, str):
            yield branch.value


def _branches(expression: ast.expr) -> list[ast.expr]:
    return [expression.body, expression.orelse] if isinstance(expression, ast.IfExp) else [expression]


def _keywords(call: ast.Call) -> frozenset[str]:
    return frozenset(keyword.arg for keyword in call.keywords if keyword.arg) - NO_FIELDS


def described() -> dict[str, str]:
    """The meaning of each event, in the order of ``ops/log_events.py``."""
    lines = (line.split(maxsplit=1) for line in (log_events.__doc__ or "").splitlines() if line.startswith("    "))
    return {event: code(meaning).removeprefix("(debug) ") for event, meaning in lines}


def parts(_page: str) -> Iterator[Part]:
    levels, fields = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    for each in (each for source in sources() for each in logged(source)):
        levels[each.event].add(each.level)
        fields[each.event] |= each.fields
    rows = []
    for event, meaning in described().items():
        shown = ", ".join(level for level in LEVELS if level in levels[event])
        rows.append((f"`{event}`", shown, meaning, ", ".join(f"`{field}`" for field in sorted(fields[event]))))
    yield "events", table("event", "level", "meaning", "fields", rows=rows)
