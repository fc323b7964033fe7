"""What may be POSTed to the sandbox's administration. Everything else is refused with what is allowed."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Annotated, Any, Final, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ai_task_processor.sandbox.chat import Habit
from ai_task_processor.sandbox.faults import EFFECTS, Fault

#: tasks that one request may add
MOST_TASKS: Final = 1_000_000
#: the most rows of a list of tasks, and how many without a limit
MOST_ROWS, USUAL_ROWS = 1_000, 100

_FAULT: Final = tuple(field.name for field in fields(Fault) if field.init)
_ADDED: Final = 'tasks are added with {"count": N}, {"claims": N} or a list of objects with '


class _Exact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class NumberedTasks(_Exact):
    """So many tasks with texts of the sandbox."""

    count: Annotated[int, Field(ge=1, le=MOST_TASKS)]


class Claims(_Exact):
    """So many requests to verify a claim."""

    claims: Annotated[int, Field(ge=1, le=MOST_TASKS)]


def fault_of(wanted: object) -> Fault:
    """Raises ``ValueError`` with a line for each mistake."""
    if not isinstance(wanted, dict):
        raise ValueError(f"a fault is an object with endpoint and one of {', '.join(EFFECTS)}")
    made: Fault = _checked(TypeAdapter(Fault), wanted, _FAULT)
    if not wanted.keys() & set(EFFECTS):
        raise ValueError(f"this fault changes nothing: give it one of {', '.join(EFFECTS)}")
    return made


def habits_of(wanted: object) -> Mapping[str, float]:
    """How likely each bad habit of the chat model is. Raises ``ValueError``."""
    if not isinstance(wanted, dict):
        raise ValueError('habits are an object of how likely each is: {"prose": 0.2}')
    share = Annotated[float, Field(ge=0, le=1)]
    return _checked(TypeAdapter(dict[Habit, share]), wanted, get_args(Habit))  # type: ignore[no-any-return]


def tasks_of(wanted: object, names: Sequence[str]) -> NumberedTasks | Claims | list[dict[str, Any]]:
    """``names``: the fields of a task. Raises ``ValueError``."""
    added = _ADDED + ", ".join(names)
    match wanted:
        case {"claims": _}:
            return _checked(TypeAdapter(Claims), wanted, ("claims",))  # type: ignore[no-any-return]
        case {"count": _}:
            return _checked(TypeAdapter(NumberedTasks), wanted, ("count",))  # type: ignore[no-any-return]
        case list() if all(isinstance(each, dict) for each in wanted):
            if unknown := sorted({str(name) for task in wanted for name in task.keys() - set(names)}):
                raise ValueError(f"{', '.join(unknown)} is unknown: {added}")
            return wanted
        case _:
            raise ValueError(added)


def rows_of(query: Mapping[str, str], states: Sequence[str]) -> tuple[str | None, int]:
    """State and limit of a list of tasks. Raises ``ValueError``."""
    state, limit = query.get("state"), query.get("limit", str(USUAL_ROWS))
    if state is not None and state not in states:
        raise ValueError(f"state must be one of {', '.join(states)}")
    if not limit.isdecimal() or not 1 <= int(limit) <= MOST_ROWS:
        raise ValueError(f"limit must be from 1 to {MOST_ROWS}")
    return state, int(limit)


def _checked(adapter: TypeAdapter[Any], wanted: object, names: Sequence[str]) -> Any:
    try:
        return adapter.validate_python(wanted)
    except ValidationError as error:
        raise ValueError("; ".join(dict.fromkeys(_told(each, names) for each in error.errors()))) from None


def _told(error: Mapping[str, Any], names: Sequence[str]) -> str:
    name, message = str(error["loc"][0]) if error["loc"] else "value", str(error["msg"])
    if (
        error["type"] in ("unexpected_keyword_argument", "extra_forbidden", "dataclass_exact_type")
        or "[key]" in error["loc"]
    ):
        return f"{name} is unknown: allowed are {', '.join(names)}"
    return f"{name}: {message[:1].lower()}{message[1:]}"
