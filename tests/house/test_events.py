"""Every event that is logged stands in the one table."""

import ast
from collections.abc import Iterator
from pathlib import Path

from ai_task_processor.ops import logs

PACKAGE = Path(logs.__file__).parents[1]
LEVELS = {"debug", "info", "warning", "error", "critical"}


def events(source: str) -> Iterator[str]:
    """Constants that are passed as the event: to a logger's method, or to a ``Condition`` that logs them."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        told = isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS
        condition = isinstance(node.func, ast.Name) and node.func.id == "Condition"
        for argument in node.args[: 1 if told else 2]:
            if (told or condition) and isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield argument.value


def test_every_event_is_in_the_table() -> None:
    """Whoever greps a log finds what an event means."""
    table = {line.split()[0] for line in (logs.__doc__ or "").splitlines() if line.startswith("    ")}
    engine = [file for file in PACKAGE.rglob("*.py") if "sandbox" not in file.parts]
    logged = {event for file in engine for event in events(file.read_text())}
    assert len(logged) > 20
    assert sorted(logged - table) == []
    # Some events are chosen by an expression: it is enough that somebody names them.
    code = "".join(file.read_text() for file in engine)
    assert sorted(event for event in table if "." in event and f'"{event}"' not in code) == []


def test_an_event_outside_the_table_is_noticed() -> None:
    """A planted event is found, at a logger and at a condition."""
    assert list(events('log.info("a.b", x=1)\nCondition("c.d", "e.f", 3)\nlist.append("g")')) == ["a.b", "c.d", "e.f"]
