"""What a search API must offer."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ai_task_processor.core.checks import Remote


@dataclass(frozen=True, slots=True)
class Hit:
    """One result. ``published_at``: in the API's own words; None when it does not say."""

    title: str
    url: str
    snippet: str
    published_at: str | None
    source: str


@dataclass(frozen=True, slots=True)
class Hits:
    """The best hits of one search; none when there are none. ``raw``: the API's whole answer, JSON."""

    hits: Sequence[Hit] = ()
    raw: object = field(default=None, repr=False)


class SearchSource(Protocol):
    """A search API. ``name``: how tasks and SEARCH_SOURCE_ALLOWLIST call it."""

    name: str
    remote: Remote

    async def search(self, query: str, recency_days: int) -> Hits:
        """The best hits of the last days (0: of any time).

        Raises ``TaskError`` when the API refuses this query, a ``RemoteError`` otherwise.
        """

    def wait_s(self) -> float:
        """Seconds until a request may be made; 0 when one may now."""

    async def aclose(self) -> None:
        """Close its connections."""
