"""Brave's answers: what is a result, and whose fault a refusal is."""

from collections.abc import Mapping
from typing import Any

import httpx2
import pytest

from ai_task_processor.core import codec
from ai_task_processor.core.errors import (
    InvalidAnswer,
    Misconfigured,
    QuotaExhausted,
    TaskError,
    Throttled,
    Transient,
    Unauthorized,
)
from ai_task_processor.net.answers import Answer
from ai_task_processor.processors.search.brave import Brave, read_hits
from ai_task_processor.processors.search.port import Hit
from ai_task_processor.processors.search.processor import SearchProcessor
from ai_task_processor.processors.search.settings import SearchSettings
from tests.helpers import services
from tests.mock_http import mock_client
from tests.unit.conftest import FakeClock

URL = SearchSettings.model_validate({}).brave_url


def answer(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, headers or {}, body if isinstance(body, bytes) else codec.dumps(body), URL)


def found(*results: object) -> dict[str, Any]:
    return {"type": "search", "web": {"type": "search", "results": list(results)}}


@pytest.mark.parametrize(
    ("body", "hits"),
    [
        ({}, []),
        ({"type": "search"}, []),
        (found(), []),
        (found({"title": "T", "url": "https://a.example/"}), [Hit("T", "https://a.example/", "", None, "brave")]),
        (
            found({"title": "T", "url": "u", "description": "d", "page_age": "2026-01-02T03:04:05", "age": "1 day"}),
            [Hit("T", "u", "d", "2026-01-02T03:04:05", "brave")],
        ),
        (found({"title": "T", "url": "u", "age": "1 day", "description": 5}), [Hit("T", "u", "", "1 day", "brave")]),
        (found({"title": "T"}, {"url": "u"}, {"title": " ", "url": "u"}, {"title": "T", "url": 5}, None, "x"), []),
        (found(*[{"title": "T", "url": "u"}] * 9), [Hit("T", "u", "", None, "brave")] * 3),
    ],
)  # fmt: skip
def test_results(body: object, hits: list[Hit]) -> None:
    """Those with a title and a URL, not more than were asked for."""
    assert read_hits(answer(body), 3).hits == hits


def refusal(code: str, *places: object) -> dict[str, Any]:
    return {"type": "ErrorResponse", "error": {"code": code, "meta": {"errors": [{"loc": place} for place in places]}}}


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (answer(b"<html>"), InvalidAnswer),
        (answer([]), InvalidAnswer),
        (answer({"web": {"results": {}}}), InvalidAnswer),
        (answer({"type": "ErrorResponse"}), InvalidAnswer),
        (answer(b"oops", 500), Transient),
        (answer(b"", 503, {"retry-after": "3"}), Throttled),
        (answer(refusal("RATE_LIMITED"), 429), Throttled),
        (answer(refusal("QUOTA_LIMITED"), 429), QuotaExhausted),
        (answer({}, 402), QuotaExhausted),
        (answer({}, 401), Unauthorized),
        (answer({}, 403), Unauthorized),
        (answer(refusal("SUBSCRIPTION_TOKEN_INVALID"), 422), Unauthorized),
        (answer(refusal("VALIDATION", ["query", "q"]), 422), TaskError),
        (answer(refusal("VALIDATION", ["query", "q"], ["query", "count"]), 422), Misconfigured),
        (answer(refusal("VALIDATION", ["header", "x-subscription-token"]), 422), Misconfigured),
        (answer(refusal("VALIDATION"), 422), Misconfigured),
        (answer(b"[]", 422), Misconfigured),
        (answer({"error": {"code": [], "meta": {"errors": [5]}}}, 422), Misconfigured),
        (answer({}, 404), Misconfigured),
        (answer({}, 302, {"location": "https://b.example/"}), Misconfigured),
    ],
)
def test_refusals(given: Answer, error: type[Exception]) -> None:
    """Only a query that the API does not take is the task's fault."""
    with pytest.raises(error) as raised:
        read_hits(given, 3)
    assert type(raised.value) is error


@pytest.mark.parametrize(
    ("days", "freshness"),
    [(0, None), (1, "pd"), (2, "pw"), (7, "pw"), (8, "pm"), (31, "pm"), (32, "py"), (400, "py")],
)
async def test_the_request(clock: FakeClock, days: int, freshness: str | None) -> None:
    """As Brave documents it, with the key in its header."""
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, json={})

    brave = Brave(services({"BRAVE_API_KEY": "key", "SEARCH_MAX_RESULTS": "5"}, SearchProcessor, clock=clock))
    brave._client = mock_client(handle, URL)
    assert (await brave.search("tide & tables", days)).hits == []
    (request,) = seen
    expected = {"q": "tide & tables", "count": "5", **({"freshness": freshness} if freshness else {})}
    assert dict(request.url.params) == expected
    assert request.headers["X-Subscription-Token"] == "key"


async def test_it_waits_for_short_pauses(clock: FakeClock) -> None:
    """A plan of one request a second slows a batch and does not release its task."""
    answers = [httpx2.Response(429), httpx2.Response(429), httpx2.Response(200, json={})]
    brave = Brave(services({"BRAVE_API_KEY": "key"}, SearchProcessor, clock=clock))
    brave._client = mock_client(lambda _: answers.pop(0), URL)
    assert (await brave.search("q", 7)).hits == []
    assert answers == []
