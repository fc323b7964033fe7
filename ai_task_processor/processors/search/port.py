"""What a search API must offer."""

from collections.abc import Sequence
from dataclasses import dataclass
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


class SearchSource(Protocol):
    """A search API. ``name``: how tasks and SEARCH_SOURCE_ALLOWLIST call it."""

    name: str
    remote: Remote

    async def search(self, query: str, recency_days: int) -> Sequence[Hit]:
        """The best hits of the last days (0: of any time); empty when there are none.

        Raises ``TaskError`` when the API refuses this query, a ``RemoteError`` otherwise.
        """

    def wait_s(self) -> float:
        """Seconds until a request may be made; 0 when one may now."""

    async def aclose(self) -> None:
        """Close its connections."""
