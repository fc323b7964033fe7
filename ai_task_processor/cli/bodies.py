"""What is sent for an outcome, for people."""

import json
from typing import Any

from ai_task_processor.core import codec
from ai_task_processor.models.task import Completed, Failed, Outcome

#: numbers of a vector, and characters of a text, that a terminal shows
_NUMBERS, _CHARACTERS = 4, 2_000


def as_reported(source: Any, outcome: Outcome) -> tuple[Outcome, bytes]:
    """What a source reports for an outcome, and the JSON that it sends; of one that sends none, the result or error.

    A result that the source can never send is reported as a failure.
    """
    if hasattr(source, "reported"):
        reported: tuple[Outcome, bytes] = source.reported(outcome)
        return reported
    match outcome:
        case Completed(result):
            return outcome, b'{"result":' + codec.result_json(result.output, result.vector) + b"}"
        case Failed(failure):
            return outcome, codec.line({"error": {"code": failure.code, "message": failure.message}})
        case _:
            return outcome, b'{"cancelled":true}'


def for_terminal(report: bytes) -> str:
    """A report on several lines, with the beginnings of vectors and long texts."""
    return json.dumps(_shortened(json.loads(report)), ensure_ascii=False, indent=2)


def _shortened(value: Any) -> Any:
    match value:
        case dict():
            return {key: _shortened(each) for key, each in value.items()}
        case list() if len(value) > 2 * _NUMBERS and all(isinstance(each, int | float) for each in value):
            return [*value[:_NUMBERS], f"… {len(value)} numbers in all"]
        case list():
            return [_shortened(each) for each in value]
        case str() if len(value) > _CHARACTERS:
            return f"{value[:_CHARACTERS]}… {len(value)} characters in all"
        case _:
            return value
