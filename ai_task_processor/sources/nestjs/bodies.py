"""The PATCH bodies of outcomes for the NestJS API."""

from ai_task_processor.core import codec
from ai_task_processor.models.task import Completed, Failed, Outcome

BARE_FAILURE = b'{"state":"failed"}'


def body_of(outcome: Outcome) -> bytes:
    """``{"state": "succeeded", "result": …}`` or ``{"state": "failed", "error": {"code": …, "message": …}}``.

    A cancelled task is reported as failed: the API has no state for it.
    """
    match outcome:
        case Completed(result):
            return b'{"state":"succeeded","result":' + codec.result_json(result.output, result.vector) + b"}"
        case Failed(failure):
            return codec.line({"state": "failed", "error": {"code": failure.code, "message": failure.message}})
        case _:
            return codec.line({"state": "failed", "error": {"code": "cancelled", "message": ""}})
