"""The words of the NestJS task API: a listed record becomes a task, an answer to a PATCH a verdict. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from ai_task_processor import codec
from ai_task_processor.errors import Ambiguous, Misconfigured, NeighbourError, Rejected
from ai_task_processor.models.task import Task, TaskStatus, TaskType
from ai_task_processor.sources.framing import RecordTooLarge

_REJECTIONS: Mapping[int, str] = {400: "refused", 404: "gone", 409: "conflict", 413: "refused", 422: "refused"}


@dataclass(frozen=True, slots=True)
class Invalid:
    """A record that cannot become a task, and why. Nothing of its content is kept, except a valid id."""

    reason: str
    task_id: str | None = None


def parse_record(record: bytes, id_pattern: re.Pattern[str]) -> Task | Invalid:
    """A listed record as a task. Its id has been checked against the pattern: only such ids reach a URL."""
    if isinstance(record, RecordTooLarge):
        return Invalid("larger than 1 MiB")
    try:
        raw = codec.loads(record)
    except ValueError:
        return Invalid("not valid JSON")
    return to_task(raw, id_pattern)


def to_task(raw: object, id_pattern: re.Pattern[str]) -> Task | Invalid:
    """A parsed record as a task, with the checks of ``parse_record``."""
    if not isinstance(raw, dict):
        return Invalid("not an object")
    task_id, kind = raw.get("_id"), raw.get("type")
    if not isinstance(task_id, str) or not task_id or not id_pattern.fullmatch(task_id):
        return Invalid("_id is missing or does not match TASK_ID_PATTERN")
    if not isinstance(kind, str) or not kind:
        return Invalid("type is not a text", task_id)
    if raw.get("state", TaskStatus.PENDING) != TaskStatus.PENDING:
        return Invalid("state is not pending", task_id)
    return Task(
        id=task_id,
        type=TaskType.named(kind),
        content=raw.get("content"),
        created_at=_instant(raw.get("createdAt")),
        raw=raw,
    )


def _instant(value: object) -> datetime | None:
    if not isinstance(value, str):
        return None
    try:
        instant = datetime.fromisoformat(value)
        return instant.astimezone(UTC) if instant.tzinfo else instant.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def acknowledged(status: int, body: bytes, task_id: str, state: TaskStatus) -> bool:
    """Does a 2xx answer name our task and our state? Raises ``Ambiguous`` when it does not acknowledge at all.

    204 does, and JSON that contradicts neither. An HTML page, a foreign id or another state does not.
    """
    if status == 204:
        return True
    try:
        document = codec.loads(body)
    except ValueError as error:
        raise Ambiguous("the answer to a result is not JSON", status=status) from error
    document = document if isinstance(document, dict) else {}
    answered_id, answered_state = document.get("_id"), document.get("state")
    if answered_id is None:
        answered_id = document.get("id")
    if answered_id not in (None, task_id):
        raise Ambiguous("the answer to a result names another task", status=status)
    if answered_state not in (None, state):
        raise Ambiguous("the answer to a result names another state", status=status)
    return answered_id is not None or answered_state is not None


def rejection(status: int, body: bytes) -> Rejected | NeighbourError | None:
    """A refusal that is about this very result, told apart from one about our configuration; None for neither.

    The API's own error shape is ``{"statusCode", "message"}``. A page of a proxy, a gateway's 404 (which
    has a message at most) and Nest's ``Cannot PATCH /…`` for a route that it does not have say that we
    talk to the wrong place. A body that is too large is about this result, whoever refuses it.
    """
    outcome = _REJECTIONS.get(status)
    if outcome is None:
        return None
    if status == 413:
        return Rejected("refused", status)
    try:
        document = codec.loads(body)
    except ValueError:
        document = None
    document = document if isinstance(document, dict) else {}
    own = document.get("statusCode") == status or (status != 404 and "message" in document)
    if not own or str(document.get("message")).startswith("Cannot PATCH"):
        return Misconfigured(f"a result was answered with {status} by something else than the task API", status=status)
    return Rejected(outcome, status)  # type: ignore[arg-type]  # the table holds exactly the literals
