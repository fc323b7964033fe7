"""A list becomes tasks: keys, due times, and what is skipped."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from ai_task_processor.core.errors import InvalidAnswer
from ai_task_processor.sources.periodic.listing import due_of, key, read
from ai_task_processor.sources.periodic.profile import PeriodicProfile

PROFILE: dict[str, Any] = {
    "kind": "periodic",
    "types": ["reminder"],
    "list": {"path": "/due", "items": "/tasks", "window_minutes": 30},
    "fields": {"id": "/id", "due": "/due_date"},
}


def profile(**fields: object) -> PeriodicProfile:
    return PeriodicProfile.model_validate(PROFILE | {"fields": PROFILE["fields"] | fields})


def body(*items: object) -> bytes:
    return json.dumps({"tasks": items, "count": len(items)}).encode()


@pytest.mark.parametrize(
    ("item", "zone", "expected"),
    [
        ({"id": 7, "due_date": "2026-12-01T10:00:00"}, "UTC", "7@2026-12-01T10:00:00Z"),
        ({"id": "a-7", "due_date": "2026-12-01T10:00:00.123456"}, "UTC", "a-7@2026-12-01T10:00:00.123456Z"),
        ({"id": 7, "due_date": "2026-12-01T10:00:00Z"}, "Asia/Karachi", "7@2026-12-01T10:00:00Z"),
        ({"id": 7, "due_date": "2026-12-01T10:00:00+05:00"}, "UTC", "7@2026-12-01T05:00:00Z"),
        ({"id": 7, "due_date": "2026-12-01T10:00:00"}, "Asia/Karachi", "7@2026-12-01T05:00:00Z"),
    ],
)
def test_a_key_is_the_id_and_the_due_time_in_utc(item: dict[str, object], zone: str, expected: str) -> None:
    """Whatever the zone in which the API writes it; the time can be read back."""
    (due,) = read(body(item), profile(time_zone=zone)).due
    assert (due.task.id, due.task.type, due.task.content) == (expected, "reminder", item)
    assert due_of(expected) == due.at


def test_another_due_time_is_another_key() -> None:
    assert key("7", datetime(2026, 12, 1, 10, tzinfo=UTC)) != key("7", datetime(2026, 12, 1, 11, tzinfo=UTC))


@pytest.mark.parametrize(
    "text", ["", "7", "@2026-12-01T10:00:00Z", "7@soon", "7@2026-12-01T10:00:00", "a b@2026-12-01Z"]
)
def test_what_is_no_key_has_no_due_time(text: str) -> None:
    assert due_of(text) is None


def test_one_bad_item_among_good_ones_is_skipped() -> None:
    """The others are used, soonest first, and each key once."""
    good = [{"id": n, "due_date": f"2026-12-01T{20 - n}:00:00"} for n in (1, 2, 3)]
    no_ids = [{}, {"id": True}, {"id": ""}, {"id": "../x"}, {"id": 1.5}, {"id": "a@b"}, None, "x", []]
    no_times = [
        {"id": 9, "due_date": due} for due in (None, 5, "", "soon", "2026-13-01T00:00:00", "0001-01-01T00:00+05:00")
    ]
    listed = read(body(good[0], *no_ids, *good, *no_times), profile())
    assert [due.task.id.partition("@")[0] for due in listed.due] == ["3", "2", "1"]
    assert (listed.seen, listed.duplicates) == (19, 1)
    assert sorted(listed.invalid.values()) == [len(no_times), len(no_ids)]


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"{}", b"[]", b'{"tasks": null}', b'{"tasks": {}}', b'{"tasks": [NaN]}']
)
def test_an_answer_without_a_list_is_not_an_empty_list(content: bytes) -> None:
    with pytest.raises(InvalidAnswer):
        read(content, profile())


def test_the_content_may_be_a_part_of_the_item() -> None:
    item = {"id": 7, "due_date": "2026-12-01T10:00:00Z", "what": {"text": "x"}}
    (due,) = read(body(item), profile(content="/what")).due
    assert due.task.content == {"text": "x"}
