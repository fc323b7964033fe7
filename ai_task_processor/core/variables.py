"""The variables that settings are read from, for documentation and commands."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ai_task_processor.core.groups import Group, names
from ai_task_processor.core.settings import CORE


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable as documentation shows it. ``default``: as text, empty when there is none.

    ``secret``: it can also come from a file, named by ``<NAME>_FILE``.
    """

    name: str
    meaning: str
    default: str
    secret: bool


def variables(groups: Iterable[type[Group]]) -> Sequence[Variable]:
    """Every variable that the core and these groups read, without the ``<NAME>_FILE`` forms."""
    parts, *others = CORE.values()
    return variables_of((parts, *groups, *others))


def variables_of(groups: Iterable[type[Group]]) -> Sequence[Variable]:
    """The same of these groups alone."""
    found: dict[str, Variable] = {}
    for each in (each for group in groups for each in group.model_fields.values()):
        name, *files = names(each)
        default = each.default if isinstance(each.default, str) else ""
        found.setdefault(name, Variable(name, each.description or "", default, files not in ([], [name])))
    return list(found.values())
