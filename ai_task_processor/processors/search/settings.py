"""The settings of searches."""

from typing import Annotated

from pydantic import AfterValidator, SecretStr

from ai_task_processor.core.groups import Endpoint, Group, Printable, setting
from ai_task_processor.core.settings import Names


def _lower(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


class SearchSettings(Group):
    """The search API, what may be asked of it, and for how long answers are kept."""

    section = "Search and pages"

    brave_url: Endpoint = setting(
        "BRAVE_URL", "the URL of Brave's web search", "https://api.search.brave.com/res/v1/web/search"
    )
    brave_api_key: Annotated[SecretStr | None, Printable] = setting(
        "BRAVE_API_KEY", "the key of the search API; search tasks stay pending without it"
    )
    cache_ttl_s: int = setting(
        "SEARCH_CACHE_TTL_SECONDS", "for how many seconds an answer is kept; 0 for none", "3600", ge=0, le=2_592_000
    )
    max_results: int = setting("SEARCH_MAX_RESULTS", "results for one query", "10", ge=1, le=20)
    source_allowlist: Annotated[Names, AfterValidator(_lower)] = setting(
        "SEARCH_SOURCE_ALLOWLIST", "the names of the search APIs that tasks may use, separated by commas", "brave"
    )
    max_batch_size: int = setting("MAX_BATCH_SIZE", "queries of one search_batch task", "50", ge=1, le=1000)
