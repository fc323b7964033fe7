"""What a listed record and an answer to a PATCH mean."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.errors import Ambiguous, Misconfigured, Rejected
from ai_task_processor.models.task import Task, TaskStatus, TaskType
from ai_task_processor.sources.framing import RecordTooLarge
from ai_task_processor.sources.nest_wire import Invalid, acknowledged, parse_record, rejection

IDS = re.compile("^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$")
RECORD = {
    "_id": "665f0c0000000000000000aa",
    "type": "text_embedding",
    "state": "pending",
    "content": {"text": "Text to process", "model": "text-embedding-3-small"},
    "callbackRoute": "verification_update_embedding",
    "callbackParams": {"targetId": "665f0d0000000000000000aa", "field": "embedding"},
    "createdAt": "2024-01-01T00:00:00.000Z",
    "updatedAt": None,
}


def parsed(**changes: object) -> Task | Invalid:
    return parse_record(json.dumps({**RECORD, **changes}).encode(), IDS)


def test_a_record_becomes_a_task() -> None:
    """Every field finds its place, and the whole record is carried along."""
    assert parsed() == Task(
        id="665f0c0000000000000000aa",
        type=TaskType.TEXT_EMBEDDING,
        content=RECORD["content"],
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        raw=RECORD,
    )


def test_the_content_does_not_show() -> None:
    """User text is in no representation of a task, nor of a record that is none."""
    assert "Text to process" not in repr(parsed())
    assert "Text to process" not in repr(parsed(_id="?"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("text_embedding", TaskType.TEXT_EMBEDDING),
        ("text-embedding", TaskType.TEXT_EMBEDDING),
        ("image-caption", "image-caption"),
        ("Text_Embedding", "Text_Embedding"),
    ],
)
def test_both_spellings_of_a_type_mean_the_same(name: str, kind: TaskType | str) -> None:
    """Dash and underscore are one type; an unknown type is data and stays as it is."""
    task = parsed(type=name)
    assert isinstance(task, Task)
    assert task.type == kind


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2024-01-01T00:00:00.000Z", datetime(2024, 1, 1, tzinfo=UTC)),
        ("2024-01-01T02:00:00+02:00", datetime(2024, 1, 1, tzinfo=UTC)),
        ("2024-01-01T00:00:00", datetime(2024, 1, 1, tzinfo=UTC)),
        ("2024-01-01", datetime(2024, 1, 1, tzinfo=UTC)),
        ("0001-01-01T00:00:00+14:00", None),
        ("9999-12-31T23:59:59-14:00", None),
        ("yesterday", None),
        ("", None),
        (None, None),
        (1704067200000, None),
        ({"$date": "2024-01-01T00:00:00Z"}, None),
        (True, None),
    ],
)
def test_a_creation_time_is_understood_or_left_out(value: object, expected: datetime | None) -> None:
    """No form of ``createdAt`` costs a task: what is no time is no time."""
    task = parsed(createdAt=value)
    assert isinstance(task, Task)
    assert task.created_at == expected


@pytest.mark.parametrize(
    "task_id",
    ["../../admin", "a?x=1", "%2e%2e", "", "..", ".", "a/b", "a b", "a\n", "é", "-a", "a" * 129, None, 7, True, ["a"]],
)
def test_an_id_outside_the_pattern_is_never_a_task(task_id: object) -> None:
    """Only a text that the whole pattern matches is an id."""
    assert parsed(_id=task_id) == Invalid("_id is missing or does not match TASK_ID_PATTERN")


def test_an_empty_id_is_none_whatever_the_pattern() -> None:
    """A pattern that allows nothing at all does not make the list's own path a task."""
    assert isinstance(parse_record(b'{"_id":"","type":"t"}', re.compile(".*")), Invalid)


@pytest.mark.parametrize("kind", [None, "", 3, ["text_embedding"]])
def test_a_type_is_a_text(kind: object) -> None:
    """A record without a usable type is invalid, and says which task it is."""
    assert parsed(type=kind) == Invalid("type is not a text", "665f0c0000000000000000aa")


@pytest.mark.parametrize("state", ["in_progress", "succeeded", "failed", "Pending", None, 0])
def test_only_pending_records_are_tasks(state: object) -> None:
    """Another state than pending is not ours to start."""
    assert parsed(state=state) == Invalid("state is not pending", "665f0c0000000000000000aa")


def test_a_missing_state_is_pending() -> None:
    """The list is called pending: a record may leave it out."""
    assert isinstance(parse_record(b'{"_id":"a","type":"t"}', IDS), Task)


@pytest.mark.parametrize(
    "content",
    [
        b"NaN",
        b"Infinity",
        b"1e999",
        b"-1e999",
        b"9" * 5000,
        b'"\xff\xfe"',
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b"[" * 100_000 + b"]" * 100_000,
        b"[" * 100_000,
        b"'a'",
        b'"a\nb"',
        b"{,}",
        b"",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_what_is_not_strict_json_is_invalid(content: bytes) -> None:
    """Not a number, out of range, not UTF-8, half a surrogate or bottomless: that record is invalid."""
    record = b'{"_id":"a","type":"text_embedding","content":' + content + b"}"
    assert parse_record(record, IDS) == Invalid("not valid JSON")


@pytest.mark.parametrize("record", [b"[]", b"null", b"12", b'"text"', b"true"])
def test_a_record_is_an_object(record: bytes) -> None:
    """A value of another kind is invalid."""
    assert parse_record(record, IDS) == Invalid("not an object")


def test_a_record_that_was_too_large_says_so() -> None:
    """The stand-in of a large record is not parsed."""
    assert parse_record(RecordTooLarge(b'{"_id":"a"'), IDS) == Invalid("larger than 1 MiB")


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_parser(record: bytes) -> None:
    """Whatever arrives is a task or invalid."""
    assert isinstance(parse_record(record, IDS), Task | Invalid)


@pytest.mark.parametrize(
    ("status", "body", "verified"),
    [
        (204, b"", True),
        (200, b'{"_id":"a","state":"succeeded","result":[1]}', True),
        (200, b'{"id":"a","state":"succeeded"}', True),
        (200, b'{"_id":null,"id":"a"}', True),
        (200, b'{"_id":"a"}', True),
        (201, b'{"state":"succeeded"}', True),
        (200, b"{}", False),
        (200, b'{"ok":true}', False),
        (200, b'{"_id":null,"state":null}', False),
        (200, b"[]", False),
        (200, b"true", False),
        (200, b"null", False),
        (200, b'"done"', False),
    ],
)
def test_what_does_not_contradict_acknowledges(status: int, body: bytes, verified: bool) -> None:
    """204, or JSON about our task or about nothing; only the first kind is verified."""
    assert acknowledged(status, body, "a", TaskStatus.SUCCEEDED) is verified


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>login</html>",
        b"OK",
        b'{"_id":"b","state":"succeeded"}',
        b'{"id":"b"}',
        b'{"_id":null,"id":"b"}',
        b'{"_id":7}',
        b'{"_id":["a"]}',
        b'{"_id":"a","state":"pending"}',
        b'{"_id":"a","state":"failed"}',
        b'{"state":"in_progress"}',
        b'{"state":{}}',
        b'{"_id":"a"',
        b"[" * 100_000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_contradicts_does_not_acknowledge(body: bytes) -> None:
    """A page, an empty body, a foreign task or another state leaves it open whether the result arrived."""
    with pytest.raises(Ambiguous) as caught:
        acknowledged(200, body, "a", TaskStatus.SUCCEEDED)
    assert caught.value.status == 200


def nest(status: int, message: object, **more: object) -> bytes:
    return json.dumps({"statusCode": status, "message": message, **more}).encode()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (400, nest(400, "Validation failed", error="Bad Request"), "refused"),
        (400, nest(400, ["property error should not exist"]), "refused"),
        (400, b'{"message":"a filter of their own"}', "refused"),
        (422, nest(422, "Unprocessable"), "refused"),
        (413, nest(413, "request entity too large"), "refused"),
        (413, b"<html>Request Entity Too Large</html>", "refused"),
        (409, nest(409, "already succeeded"), "conflict"),
        (404, nest(404, "AI task a not found", error="Not Found"), "gone"),
    ],
)
def test_the_apis_own_refusal_is_about_the_result(status: int, body: bytes, outcome: str) -> None:
    """In Nest's error shape a refusal is final for this result, and keeps its status."""
    error = rejection(status, body)
    assert isinstance(error, Rejected)
    assert (error.outcome, error.status) == (outcome, status)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, nest(404, "Cannot PATCH /api/ai-tasks/a", error="Not Found")),
        (404, b"<html>404 page not found</html>"),
        (404, b"default backend - 404"),
        (404, b'{"message":"no Route matched with those values"}'),
        (404, b""),
        (404, b"[]"),
        (400, b"<html>Bad Request</html>"),
        (400, b"{}"),
        (409, b"null"),
        (422, b'{"error":"?"}'),
    ],
)
def test_somebody_elses_refusal_is_about_the_configuration(status: int, body: bytes) -> None:
    """A proxy's page, a gateway's 404, or a route that Nest does not have: nothing is said about the result."""
    error = rejection(status, body)
    assert isinstance(error, Misconfigured)
    assert error.status == status


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503, 302, 405, 410])
def test_other_statuses_are_no_rejection(status: int) -> None:
    """Only five statuses are about a result at all."""
    assert rejection(status, nest(status, "no")) is None
