"""The settings of ``fetch_url``."""

from typing import Annotated

from pydantic import AfterValidator

from ai_task_processor.core.groups import Group, setting
from ai_task_processor.core.settings import Names
from ai_task_processor.processors.fetch.urls import host_of

#: every host with a public address
ANY = "*"


def _hosts(names: tuple[str, ...]) -> tuple[str, ...]:
    hosts = tuple(name if name == ANY else host_of(f"http://{f'[{name}]' if ':' in name else name}/") for name in names)
    if not all(hosts) or not hosts:
        raise ValueError("must be exact host names or addresses without ports, separated by commas, or *")
    return tuple(host or "" for host in hosts)


class FetchSettings(Group):
    """Which hosts may be fetched."""

    section = "Search and pages"

    allowlist: Annotated[Names, AfterValidator(_hosts)] = setting(
        "FETCH_DOMAIN_ALLOWLIST",
        "the hosts that may be fetched, separated by commas; * for all with public addresses",
        ANY,
        note="Exact names. A private address is only used for a host that is named here.",
    )

    def names(self, host: str) -> bool:
        """Whether the host itself is named: then it may have a private address."""
        return host in self.allowlist

    def allows(self, host: str) -> bool:
        return ANY in self.allowlist or self.names(host)
