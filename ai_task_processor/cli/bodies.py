"""What is sent for an outcome, for people: ``process`` and ``outbox show``."""

from typing import Any

from ai_task_processor.core import codec
from ai_task_processor.models.task import Completed, Failed, Outcome


def as_reported(source: Any, outcome: Outcome) -> bytes:
    """The JSON that a source sends for an outcome; of one that does not send JSON, the result or error alone."""
    if hasattr(source, "body_of"):
        body: bytes = source.body_of(outcome)
        return body
    match outcome:
        case Completed(result):
            return b'{"result":' + codec.result_json(result.output, result.vector) + b"}"
        case Failed(failure):
            return codec.line({"error": {"code": failure.code, "message": failure.message}})
        case _:
            return b'{"cancelled":true}'
