"""What a listed record means."""

import json
import re
from datetime import UTC, datetime

import pytest

from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.sources.rest.framing import RecordTooLarge
from ai_task_processor.sources.rest.wire import Invalid
from tests.nest import parse_record

IDS = re.compile("^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$")
OBJECT_ID = "665f0c0000000000000000aa"
RECORD = {
    "_id": OBJECT_ID,
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
    content, created_at = RECORD["content"], datetime(2024, 1, 1, tzinfo=UTC)
    assert parsed() == Task(
        id=OBJECT_ID, type=TaskType.TEXT_EMBEDDING, content=content, created_at=created_at, raw=RECORD
    )


def test_the_content_does_not_show() -> None:
    assert "Text to process" not in repr(parsed())
    assert "Text to process" not in repr(parsed(_id="?"))


@pytest.mark.parametrize("name", ["text_embedding", "text-embedding", "image-caption", "Text_Embedding"])
def test_both_spellings_of_a_type_mean_the_same(name: str) -> None:
    """Dash and underscore are one type; an unknown type is data and stays as it is."""
    task = parsed(type=name)
    assert isinstance(task, Task)
    assert task.type == (TaskType.TEXT_EMBEDDING if name in ("text_embedding", "text-embedding") else name)


#: forms of the first moment of 2024, and of no time at all
TIMES = ["2024-01-01T00:00:00.000Z", "2024-01-01T02:00:00+02:00", "2024-01-01T00:00:00", "2024-01-01"]
NO_TIMES = ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "yesterday", "", None, 1704067200000, True]


@pytest.mark.parametrize("value", [*TIMES, *NO_TIMES, {"$date": "2024-01-01T00:00:00Z"}])
def test_a_creation_time_is_understood_or_left_out(value: object) -> None:
    """No form of ``createdAt`` costs a task: what is no time is no time."""
    task = parsed(createdAt=value)
    assert isinstance(task, Task)
    assert task.created_at == (datetime(2024, 1, 1, tzinfo=UTC) if value in TIMES else None)


@pytest.mark.parametrize(
    "task_id",
    ["../../admin", "a?x=1", "%2e%2e", "", "..", ".", "a/b", "a b", "a\n", "é", "-a", "a" * 129, None, 7, True, ["a"]],
)
def test_an_id_outside_the_pattern_is_never_a_task(task_id: object) -> None:
    assert parsed(_id=task_id) == Invalid("_id is missing or does not match TASK_ID_PATTERN")


def test_an_empty_id_is_none_whatever_the_pattern() -> None:
    """A pattern that allows nothing at all does not make the list's own path a task."""
    assert isinstance(parse_record(b'{"_id":"","type":"t"}', re.compile(".*")), Invalid)


@pytest.mark.parametrize("kind", [None, "", 3, ["text_embedding"]])
def test_a_type_is_a_text(kind: object) -> None:
    assert parsed(type=kind) == Invalid("type is not a text", OBJECT_ID)


@pytest.mark.parametrize("state", ["in_progress", "succeeded", "failed", "Pending", None, 0])
def test_only_pending_records_are_tasks(state: object) -> None:
    assert parsed(state=state) == Invalid("state is not pending", OBJECT_ID)


def test_a_missing_state_is_pending() -> None:
    assert isinstance(parse_record(b'{"_id":"a","type":"t"}', IDS), Task)


NO_NUMBERS = [b"NaN", b"Infinity", b"1e999", b"-1e999", b"9" * 5000]
NO_TEXTS = [b'"\xff\xfe"', b'"\\ud800"', b'"\xed\xa0\x80"', b"'a'", b'"a\nb"']
NO_LISTS = [b"[" * 100_000 + b"]" * 100_000, b"[" * 100_000, b"{,}", b""]


@pytest.mark.parametrize("content", NO_NUMBERS + NO_TEXTS + NO_LISTS, ids=lambda content: repr(content[:12]))
def test_what_is_not_strict_json_is_invalid(content: bytes) -> None:
    """Not a number, out of range, not UTF-8, half a surrogate or bottomless: that record is invalid."""
    record = b'{"_id":"a","type":"text_embedding","content":' + content + b"}"
    assert parse_record(record, IDS) == Invalid("not valid JSON")


@pytest.mark.parametrize("record", [b"[]", b"null", b"12", b'"text"', b"true"])
def test_a_record_is_an_object(record: bytes) -> None:
    assert parse_record(record, IDS) == Invalid("not an object")


def test_a_record_that_was_too_large_says_so() -> None:
    assert parse_record(RecordTooLarge(b'{"_id":"a"'), IDS) == Invalid("larger than 1 MiB")
