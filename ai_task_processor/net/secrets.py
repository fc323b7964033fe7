"""Secrets that may be replaced while the process runs: read again after a refusal, and on SIGHUP.

Kubernetes, Vault agents and people rewrite secret files; the old secret is refused from then on. The settings are
frozen, so the current secrets are here.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import Group, names
from ai_task_processor.core.settings import NetworkSettings, Settings, TraceSettings
from ai_task_processor.ops import logs

G = TypeVar("G", bound=Group)
#: clients and the exporter of traces are made with the secrets of these, some by other libraries
AT_START = (NetworkSettings, TraceSettings)

log = logs.get_logger(__name__)


class Secrets:
    """All groups of settings, with the secrets as they were read last.

    ``read`` reads the settings as at the start; only secrets are taken from it. Without it nothing changes.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings] | None = None) -> None:
        self._groups: dict[type[Group], Group] = {type(group): group for group in settings.groups()}
        self._read = read
        self._lock = asyncio.Lock()

    def __getitem__(self, group: type[G]) -> G:
        return cast("G", self._groups[group])

    async def reread(self) -> None:
        """Use the secrets that were replaced. When they cannot be read (amid a replacement), the old ones stay."""
        if self._read is None:
            return
        async with self._lock:
            try:
                settings = await asyncio.to_thread(self._read)
            except ConfigurationError as error:
                log.warning("settings.rejected", reason="; ".join(error.problems))
                return
            except Exception as error:  # noqa: BLE001 - the boundary of one rereading
                log.warning("settings.rejected", reason=type(error).__name__)
                return
            logs.learn(settings.secrets())
            for kind, group in self._groups.items():
                renewed = group.renewed(settings[kind])
                for name, field in kind.model_fields.items():
                    if getattr(renewed, name) != getattr(group, name):
                        _report(names(field)[0], kind)
                self._groups[kind] = renewed


def _report(variable: str, kind: type[Group]) -> None:
    if kind in AT_START:
        log.warning("settings.warned", reason=f"{variable} was replaced: restart the daemon to use the new value")
    else:
        log.info("secret.replaced", variable=variable)
