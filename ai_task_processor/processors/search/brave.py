"""Brave's web search: https://api-dashboard.search.brave.com/app/documentation/web-search."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Remote
from ai_task_processor.core.errors import (
    CircuitOpen,
    InvalidAnswer,
    QuotaExhausted,
    RemoteError,
    TaskError,
    Throttled,
    Unauthorized,
)
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.services import Services
from ai_task_processor.processors.search.port import Hit, Hits
from ai_task_processor.processors.search.settings import SearchSettings

SERVICE = "search"
#: seconds for one request
TIMEOUT_S = 15.0
#: a longer wait for the API releases the task, seconds
LONGEST_WAIT_S = 5.0
#: the longest period in days that each value of ``freshness`` stands for; ``py`` for more
_FRESHNESS = ((1, "pd"), (7, "pw"), (31, "pm"))
OUTCOMES = ("ok", "refused_query", "error")


class Brave:
    """``SearchSource``. Requests are counted as ``search_requests_total``: each is paid for."""

    name = "brave"

    def __init__(self, services: Services) -> None:
        settings = services.settings[SearchSettings]
        self.remote = Remote("search API", "BRAVE_URL", settings.brave_url)
        self._clock, self._secrets = services.clock, services.secrets
        self._url, self._count = settings.brave_url, settings.max_results
        self._client = services.client(settings.brave_url, services.settings.worker.concurrency_limit)
        self._gate = services.gate(SERVICE)
        self._counted = services.metrics.counter(
            "search_requests_total", "Requests to the search API.", outcome=OUTCOMES
        )

    def wait_s(self) -> float:
        return self._gate.wait_s()

    async def aclose(self) -> None:
        await self._client.aclose()

    async def search(self, query: str, recency_days: int) -> Hits:
        """Waits for short pauses: plans allow few requests a second."""
        while True:
            if 0 < (wait_s := self._gate.wait_s()) <= LONGEST_WAIT_S:
                await self._clock.sleep(wait_s)
            try:
                return await self._gate.call(lambda: self._asked(query, recency_days))
            except (Throttled, CircuitOpen):
                if self._gate.wait_s() > LONGEST_WAIT_S:
                    raise
            except Unauthorized:
                await self._secrets.reread()
                raise

    async def _asked(self, query: str, recency_days: int) -> Hits:
        key = self._secrets[SearchSettings].brave_api_key
        parameters = {"q": query, "count": str(self._count)}
        if recency_days:
            parameters["freshness"] = next((name for days, name in _FRESHNESS if recency_days <= days), "py")
        headers = {"Accept": "application/json", "X-Subscription-Token": key.get_secret_value() if key else ""}
        outcome = "error"
        try:
            answer = await self._client.exchange(
                "GET", f"{self._url}?{urlencode(parameters)}", headers=headers, timeout_s=TIMEOUT_S
            )
            hits = read_hits(answer, self._count)
            outcome = "ok"
        except TaskError:
            outcome = "refused_query"
            raise
        finally:
            self._counted(outcome).inc()
        return hits


def read_hits(answer: Answer, count: int) -> Hits:
    """At most ``count`` results; those without a title or a URL are skipped. Raises as ``SearchSource.search``."""
    try:
        parsed = codec.loads(answer.content)
    except ValueError:
        parsed = None
    if not answer.is_success:
        raise _refusal(answer, _mapping(_mapping(parsed).get("error")))
    if not isinstance(parsed, dict):
        raise InvalidAnswer("the search API did not answer JSON")
    # Without a hit there is no "web".
    found = _mapping(parsed.get("web")).get("results", [])
    if not isinstance(found, list) or parsed.get("type", "search") != "search":
        raise InvalidAnswer("the search API answered without results")
    hits = (_hit(each) for each in found if isinstance(each, dict))
    return Hits([hit for hit in hits if hit is not None][:count], parsed)


def _hit(found: Mapping[str, Any]) -> Hit | None:
    title, url, snippet, *dates = (found.get(name) for name in ("title", "url", "description", "page_age", "age"))
    if not isinstance(title, str) or not isinstance(url, str) or not title.strip() or not url.strip():
        return None
    published_at = next((date for date in dates if isinstance(date, str) and date), None)
    return Hit(title, url, snippet if isinstance(snippet, str) else "", published_at, Brave.name)


def _refusal(answer: Answer, error: Mapping[str, Any]) -> TaskError | RemoteError:
    """Brave answers 422 for a wrong key as well as for a query that it does not take."""
    code, text = error.get("code"), f"the search API answered {answer.status_code}"
    if answer.status_code == 422 and code == "VALIDATION" and _is_about_query(error):
        return TaskError("search_query_refused", "the search API does not take this query")
    if code == "SUBSCRIPTION_TOKEN_INVALID":
        return Unauthorized(f"{text}: correct BRAVE_API_KEY", status=answer.status_code)
    if answer.status_code == 402 or code == "QUOTA_LIMITED":
        return QuotaExhausted(f"{text}: the quota of BRAVE_API_KEY is used up", status=answer.status_code)
    return status_error(answer, "the search API", setting="BRAVE_URL")


def _is_about_query(error: Mapping[str, Any]) -> bool:
    """``{"meta": {"errors": [{"loc": ["query", "q"], …}]}}``"""
    errors = _mapping(error.get("meta")).get("errors")
    places = [each.get("loc") for each in errors if isinstance(each, dict)] if isinstance(errors, list) else []
    return bool(places) and all(isinstance(place, list) and place[-1:] == ["q"] for place in places)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
