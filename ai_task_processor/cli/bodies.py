"""What is sent for an outcome, for people."""

from typing import Any

from ai_task_processor.core import codec
from ai_task_processor.models.task import Completed, Failed, Outcome


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
