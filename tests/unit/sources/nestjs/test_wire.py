"""What a listed record means."""

import json
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.sources.nestjs.framing import RecordTooLarge
from ai_task_processor.sources.nestjs.wire import Invalid, parse_record

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
