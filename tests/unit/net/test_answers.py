"""Whose fault a refusing status is, and the patience it asks for."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.core.errors import Misconfigured, RemoteError, Throttled, Transient, Unauthorized
from ai_task_processor.net.answers import Answer, retry_after_s, status_error

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "headers", "kind"),
    [
        (429, {}, Throttled),
        (429, {"retry-after": "5"}, Throttled),
        (503, {"retry-after": "5"}, Throttled),
        (503, {"retry-after": "soon"}, Transient),
        (503, {}, Transient),
        (500, {"retry-after": "5"}, Transient),
        (502, {}, Transient),
        (408, {}, Transient),
        (425, {}, Transient),
        (401, {}, Unauthorized),
        (403, {}, Unauthorized),
        (404, {}, Misconfigured),
        (400, {}, Misconfigured),
        (302, {}, Misconfigured),
        (418, {}, Misconfigured),
    ],
)
def test_the_status_says_whose_fault_it_is(status: int, headers: dict[str, str], kind: type[RemoteError]) -> None:
    """Every status has one class; only those that may ask for patience carry it."""
    error = status_error(Answer(status, headers), "the task API")
    assert type(error) is kind
    assert error.status == status
    assert error.retry_after_s == (5.0 if kind is Throttled and headers else None)


def test_a_date_is_read_by_the_clock_that_wrote_it() -> None:
    """A Retry-After date is compared with the answer's own Date: our clock may be hours off."""
    theirs = datetime.now(UTC) - timedelta(hours=5)
    headers = {"date": format_datetime(theirs), "retry-after": format_datetime(theirs + timedelta(seconds=20))}
    assert status_error(Answer(429, headers), "x").retry_after_s == 20


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0.0),
        ("120", 120.0),
        (" 2.5 ", 2.5),
        ("86400", 900.0),
        ("-1", None),
        ("nan", None),
        ("inf", None),
        ("1e999", None),
        ("9" * 5000, None),
        ("soon", None),
        ("", None),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 12:00:30", 30.0),
        ("Sun, 22 Nov 2026 14:00:30 +0200", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Mon, 22 Nov 2027 12:00:00 GMT", 900.0),
        ("Mon, 22 Nov 99999 12:00:00 GMT", None),
        ("Fri, 31 Dec 9999 23:59:59 -2359", None),
    ],
)
def test_retry_after(value: str | None, expected: float | None) -> None:
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
        ("http://api.test/a", "https://api.test/a", "a redirect to https://api.test: use https in API_BASE_URL"),
        ("http://api.test:80/a", "https://API.test:443/a",
         "a redirect to https://api.test:443: use https in API_BASE_URL"),
        ("http://api.test/a", "//api.test/b",
         "a redirect to another path or port of http://api.test: correct API_BASE_URL"),
        ("http://api.test/a", "/a/", "a redirect to another path or port of http://api.test: correct API_BASE_URL"),
        ("https://api.test/a", "http://api.test/a",
         "a redirect to another path or port of http://api.test: correct API_BASE_URL"),
        ("http://api.test/a", "https://u:p@login.test:8443/x?token=y#z",
         "a redirect to https://login.test:8443: correct API_BASE_URL"),
        ("http://[::1]/a", "https://[::1]/a", "a redirect to https://[::1]: use https in API_BASE_URL"),
        ("http://api.test/a", "", "a redirect to nowhere: correct API_BASE_URL"),
        ("http://api.test/a", "javascript:alert(1)", "a redirect to nowhere: correct API_BASE_URL"),
        ("http://api.test/a", "https://a b\x7f/", "a redirect to nowhere: correct API_BASE_URL"),
        ("http://api.test/a", "https://[half", "a redirect that cannot be read: correct API_BASE_URL"),
        ("http://api.test/a", "https://api.test:99999/", "a redirect that cannot be read: correct API_BASE_URL"),
        ("", "https://api.test/a", "a redirect to https://api.test: correct API_BASE_URL"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_says_where_it_points_and_what_to_change(status: int, asked: str, location: str, told: str) -> None:
    """Scheme and host only: a path may hold a token, and nothing of it is followed."""
    error = status_error(Answer(status, {"location": location}, url=asked), "the task API")
    assert type(error) is Misconfigured
    assert str(error) == f"the task API answered {status}, {told}"
