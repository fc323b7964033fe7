"""Classifies the answer to a report: acknowledged, refused by the API itself, or ambiguous. Pure.

The API answers the updated task, or nothing; the profile says where its id and state are, and its words for states.
After any other answer with a success status it is unknown whether the result arrived; the error's message says what to
change at the API.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ai_task_processor.core import codec
from ai_task_processor.core.errors import Misconfigured, NeverAcknowledged, Rejected, RemoteError, Unacknowledged
from ai_task_processor.core.pointer import keys, resolve
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sources.rest.profile import RestProfile

#: answers in a row without acknowledgement, for the same reason and for any, that are no coincidence any more
ACCIDENTS: Final = 3
MIXED_ACCIDENTS: Final = 6
#: members under which APIs wrap the document (JSON:API, JSend), and ambiguous ones
#: (``value``: a raw result of MongoDB's driver; ``result``: perhaps the reported result)
_ENVELOPES: Final = ("data", "task", "aiTask", "document", "doc", "item")
_VAGUE: Final = ("result", "value")
#: the deepest nesting of envelopes
_DEPTH: Final = 3
#: ids without distinction of case: ObjectIds and UUIDs
_HEX_ID: Final = re.compile(r"[0-9a-f]{24}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
#: an id or a state that is shown
_SIMPLE: Final = re.compile(r"[\w-]{1,64}")
_REJECTIONS: Final[Mapping[int, str]] = {400: "refused", 404: "gone", 409: "conflict", 413: "refused", 422: "refused"}

_ADVICE: Final = "return the updated document, or nothing"
_PAGE: Final = (
    "a web page answers results instead of the task API: look at API_BASE_URL, and at logins and proxies in between"
)
_TEXT: Final = f"the task API answers results with a text that is not JSON: {_ADVICE}"
_ANOTHER_TASK: Final = f"the task API answers results with another task: {_ADVICE}"
_ANOTHER_STATE: Final = f"the task API answers results with another state than was set: {_ADVICE}"
_BEFORE: Final = (
    "the task API answers results with the task as it was before: return the updated document ({new: true}) or nothing"
)
ERROR: Final = "the task API answers results with an error and a success status: answer 4xx or 5xx to what failed"


@dataclass(frozen=True, slots=True)
class Words:
    """Where an answered task has its id and its state, and what the states are called, in lower case.

    ``id`` and ``_id``, and ``state`` and ``status``, are read in any case.
    """

    ids: Sequence[str]
    states: Sequence[str]
    known: Mapping[str, TaskStatus]

    @classmethod
    def of(cls, profile: RestProfile) -> "Words":
        fields = profile.fields
        ids, states = keys(fields.id), keys(fields.state or "")
        known = {str(_spelled(word)): state for state, word in profile.states.words().items()}
        return cls(
            ids=tuple(dict.fromkeys((*ids[-1:], "_id", "id"))),
            states=tuple(dict.fromkeys((*states[-1:], "state", "status"))),
            known=known,
        )


def acknowledged(status: int, body: bytes, task_id: str, state: TaskStatus, words: Words) -> bool:
    """Does a 2xx answer name this task or state? Raises ``Unacknowledged`` when it does not acknowledge at all.

    ``detail`` of the error is the contradicting id or state; empty when the answer names none.
    An empty body acknowledges, and so does JSON that contradicts neither: bare, in an envelope, or in a list of one.
    """
    text = _bare(body)
    if status == 204 or not text:
        return False
    try:
        answer = _parsed(text)
    except ValueError as error:
        page = text.startswith(b"<")
        raise Unacknowledged(_PAGE if page else _TEXT, status=status, page=page) from error
    documents = [
        fields
        for fields in _documents(answer, words)
        if _id(fields, words) is not None or _state(fields, words) is not None
    ]
    ours = (fields for fields in documents if _same(_id(fields, words), task_id))
    document = next(ours, documents[0] if documents else {})
    if contradiction := _contradiction(document, status, task_id, state, words):
        raise contradiction
    if not document and _is_error(answer):
        raise Unacknowledged(ERROR, status=status)
    return bool(document)


def _bare(body: bytes) -> bytes:
    """A body without byte order mark and surrounding white space."""
    return body.removeprefix(b"\xef\xbb\xbf").strip()


def _parsed(text: bytes) -> object:
    """JSON, also with the deviations that a task's content may bring into it. Raises ``ValueError``."""
    try:
        return codec.loads(text)
    except ValueError:
        try:
            return json.loads(text.decode("utf-8", "replace"), parse_int=float)
        except RecursionError as error:
            raise ValueError("nested too deep") from error


def _documents(answer: object, words: Words, depth: int = _DEPTH) -> Iterator[Mapping[str, object]]:
    """The objects that may be the task's document: the answer, then the contents of its envelopes."""
    if isinstance(answer, list) and len(answer) == 1:
        answer = answer[0]
    if not isinstance(answer, dict):
        return
    yield answer
    if depth:
        for name in _ENVELOPES:
            yield from _documents(answer.get(name), words, depth - 1)
        for name in _VAGUE:
            inner = _documents(answer.get(name), words, depth - 1)
            yield from (fields for fields in inner if "_id" in fields or _state(fields, words) in words.known)


def _id(fields: Mapping[str, object], words: Words) -> object:
    """The id, MongoDB's extended JSON (``{"$oid": …}``) unwrapped; None without."""
    for name in words.ids:
        value = fields.get(name)
        if value is not None:
            return value.get("$oid", value) if isinstance(value, dict) else value
    return None


def _same(answered: object, task_id: str) -> bool:
    if isinstance(answered, bool) or not isinstance(answered, str | int | float):
        return False
    text = f"{answered:.0f}" if isinstance(answered, float) else str(answered)
    return text == task_id or (text.lower() == task_id.lower() and _HEX_ID.fullmatch(text) is not None)


def _state(fields: Mapping[str, object], words: Words) -> object:
    """The state, in lower case with underscores. Under a name that is not the profile's it must be a known word."""
    for place, name in enumerate(words.states):
        word = _spelled(fields.get(name))
        if word is not None and (place == 0 or word in words.known):
            return word
    return None


def _spelled(value: object) -> str | None:
    if value is None:
        return None
    return value.strip().lower().replace("-", "_") if isinstance(value, str) else "?"


def _contradiction(
    document: Mapping[str, object], status: int, task_id: str, state: TaskStatus, words: Words
) -> Unacknowledged | None:
    answered_id, answered_state = _id(document, words), _state(document, words)
    attributes = document.get("attributes")  # JSON:API has everything but the id there
    if answered_state is None and isinstance(attributes, dict):
        answered_state = _state(attributes, words)
    if answered_id is not None and not _same(answered_id, task_id):
        return _unacknowledged(_ANOTHER_TASK, status, "id", answered_id)
    found = words.known.get(str(answered_state))
    if answered_state is None or found is state:
        return None
    before = found in (TaskStatus.PENDING, TaskStatus.IN_PROGRESS)
    return _unacknowledged(_BEFORE if before else _ANOTHER_STATE, status, "state", answered_state)


def _unacknowledged(message: str, status: int, name: str, value: object) -> Unacknowledged:
    """Its ``detail`` is the answered id or state only: a message in a task may be content of the task."""
    error = Unacknowledged(message, status=status)
    error.detail = f"{name} {value if _SIMPLE.fullmatch(str(value)) else '?'}"
    return error


def _is_error(answer: object) -> bool:
    """Does an answer without id and state report an error?"""
    if not isinstance(answer, dict):
        return False
    code = answer.get("statusCode")
    refused = answer.get("success") is False or answer.get("ok") is False or answer.get("status") in ("error", "fail")
    return refused or bool(answer.get("error") or answer.get("errors")) or (isinstance(code, int) and code >= 400)


class Acknowledgements:
    """Distinguishes a coincidence (a lagging replica, a race) from an API that never acknowledges.

    An acknowledged repetition is no evidence: an API that answers the task as it was before answers the first report's
    state to the second, and has run its callback twice.
    """

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()
        self._open: set[str] = set()

    def arrived(self, task_id: str) -> None:
        """A report of this task was acknowledged."""
        if task_id in self._open:
            self._open.discard(task_id)
        else:
            self._in_a_row.clear()
            self._open.clear()

    def missing(self, task_id: str, error: Unacknowledged) -> RemoteError:
        """A report was not acknowledged: the error to raise, after several in a row one that pauses the remote."""
        self._in_a_row[str(error)] += 1
        self._open.add(task_id)
        if self._in_a_row[str(error)] < ACCIDENTS and self._in_a_row.total() < MIXED_ACCIDENTS:
            return error
        never = (Misconfigured if error.page else NeverAcknowledged)(str(error), status=error.status)
        never.detail = error.detail
        return never


def rejection(status: int, body: bytes, refusal: Sequence[str] = ()) -> Rejected | RemoteError | None:
    """``Rejected`` for a refusal of this result, ``Misconfigured`` for one by the wrong server; None for neither.

    ``refusal``: the keys at which the profile says that every refusal of the API has something. Without them its own
    error shape is ``{"statusCode", "message"}``. A page of a proxy, a gateway's 404 (which has a message
    at most) and Nest's ``Cannot PATCH /…`` for an unknown route mean a wrong URL. 413 is about this result, whatever
    server answers it.
    """
    outcome = _REJECTIONS.get(status)
    if outcome is None:
        return None
    if status == 413:
        return Rejected("refused", status)
    if not is_own(status, body, refusal):
        return Misconfigured(f"a result was answered with {status} by something else than the task API", status=status)
    return Rejected(outcome, status)  # type: ignore[arg-type]  # the table holds exactly the literals


def is_own(status: int, body: bytes, refusal: Sequence[str] = ()) -> bool:
    """Whether a refusal comes from the API itself: it has its error shape, and is not about an unknown route."""
    try:
        document = _parsed(_bare(body))
    except ValueError:
        return False
    if not isinstance(document, dict):
        return False
    own = document.get("statusCode") == status or (status != 404 and "message" in document)
    if refusal:
        # ``Not Found`` alone is what FastAPI and others answer to an unknown route.
        said = resolve(document, refusal)
        own = said is not None and not (status == 404 and said == "Not Found")
    return own and not str(document.get("message")).startswith("Cannot PATCH")
