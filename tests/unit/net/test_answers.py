"""Whose fault a refusing status is, and the patience it asks for."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.core.errors import Misconfigured, RemoteError, Throttled, Transient, Unauthorized
from ai_task_processor.net.answers import Answer, retry_after_s, status_error

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


#: statuses, each with a Retry-After or without one
STATUSES: dict[type[RemoteError], list[tuple[int, str | None]]] = {
    Throttled: [(429, None), (429, "5"), (503, "5")],
    Transient: [(503, "soon"), (503, None), (500, "5"), (502, None), (408, None), (425, None)],
    Unauthorized: [(401, None), (403, None)],
    Misconfigured: [(404, None), (400, None), (302, None), (418, None)],
}


@pytest.mark.parametrize(
    ("kind", "status", "wish"), [(kind, *case) for kind, cases in STATUSES.items() for case in cases]
)
def test_the_status_says_whose_fault_it_is(kind: type[RemoteError], status: int, wish: str | None) -> None:
    """Every status has one class; only those that may ask for patience carry it."""
    error = status_error(Answer(status, {"retry-after": wish} if wish else {}), "the task API")
    assert (type(error), error.status) == (kind, status)
    assert error.retry_after_s == (5.0 if kind is Throttled and wish else None)


def test_a_date_is_read_by_the_clock_that_wrote_it() -> None:
    """A Retry-After date is compared with the answer's own Date: our clock may be hours off."""
    theirs = datetime.now(UTC) - timedelta(hours=5)
    headers = {"date": format_datetime(theirs), "retry-after": format_datetime(theirs + timedelta(seconds=20))}
    assert status_error(Answer(429, headers), "x").retry_after_s == 20


WISHES: dict[float | None, list[str | None]] = {
    None: [None, "-1", "nan", "inf", "1e999", "9" * 5000, "soon", "",
           "Mon, 22 Nov 99999 12:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2359"],
    0.0: ["0", "Sun, 22 Nov 2026 11:00:00 GMT"],
    2.5: [" 2.5 "],
    30.0: ["Sun, 22 Nov 2026 12:00:30 GMT", "Sun, 22 Nov 2026 12:00:30", "Sun, 22 Nov 2026 14:00:30 +0200"],
    120.0: ["120"],
    900.0: ["86400", "Mon, 22 Nov 2027 12:00:00 GMT"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("expected", "value"), [(expected, value) for expected, values in WISHES.items() for value in values]
)
def test_retry_after(expected: float | None, value: str | None) -> None:
    """Seconds or a date, at most 15 minutes; a date in the past is now, garbage is no wish."""
    assert retry_after_s(value, NOW) == expected


@given(st.text() | st.from_regex(r"\w{3}, \d+ \w{3} \d+ \d+:\d+:\d+ ([A-Z]+|[+-]\d+)"))
def test_no_retry_after_raises(text: str) -> None:
    """Whatever stands in the header, the wish is None or between 0 and 900 seconds."""
    seconds = retry_after_s(text, NOW)
    assert seconds is None or 0.0 <= seconds <= 900.0


@pytest.mark.parametrize(
    ("asked", "location", "told"),
    [
        ("http://api.test/a", "https://api.test/a", "to https://api.test: use https in"),
        ("http://api.test:80/a", "https://API.test:443/a", "to https://api.test:443: use https in"),
        ("http://api.test/a", "//api.test/b", "to another path or port of http://api.test: correct"),
        ("http://api.test/a", "/a/", "to another path or port of http://api.test: correct"),
        ("https://api.test/a", "http://api.test/a", "to another path or port of http://api.test: correct"),
        ("http://api.test/a", "https://u:p@login.test:8443/x?token=y#z", "to https://login.test:8443: correct"),
        ("http://[::1]/a", "https://[::1]/a", "to https://[::1]: use https in"),
        ("http://api.test/a", "", "to nowhere: correct"),
        ("http://api.test/a", "javascript:alert(1)", "to nowhere: correct"),
        ("http://api.test/a", "https://a b\x7f/", "to nowhere: correct"),
        ("http://api.test/a", "https://[half", "that cannot be read: correct"),
        ("http://api.test/a", "https://api.test:99999/", "that cannot be read: correct"),
        ("", "https://api.test/a", "to https://api.test: correct"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_says_where_it_points_and_what_to_change(status: int, asked: str, location: str, told: str) -> None:
    """Scheme and host only: a path may hold a token, and nothing of it is followed."""
    error = status_error(Answer(status, {"location": location}, url=asked), "the task API")
    assert type(error) is Misconfigured
    assert str(error) == f"the task API answered {status}, a redirect {told} API_BASE_URL"
