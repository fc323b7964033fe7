"""Secrets that are replaced while the process runs: read again after a refusal, and when an operator says so.

Kubernetes, Vault agents and people rewrite secret files, and a token or a call is refused from then on. The
settings are frozen, so what may change is kept here.
"""

import asyncio
from collections.abc import Callable
from typing import TypeVar, cast

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.groups import Group, names
from ai_task_processor.core.settings import Settings
from ai_task_processor.ops import logs

G = TypeVar("G", bound=Group)

log = logs.get_logger(__name__)


class Secrets:
    """The groups of the components, with the secrets as they were read last.

    ``read`` reads the settings as at the start; only secrets are taken from it. Without it nothing changes.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings] | None = None) -> None:
        self._groups = dict(settings.components)
        self._read = read
        self._lock = asyncio.Lock()

    def __getitem__(self, group: type[G]) -> G:
        return cast("G", self._groups[group])

    async def reread(self) -> None:
        """Take what has been replaced. What cannot be read, in the middle of a replacement perhaps, stays as it was."""
        if self._read is None:
            return
        async with self._lock:
            try:
                settings = await asyncio.to_thread(self._read)
            except ConfigurationError as error:
                log.warning("settings.rejected", reason="; ".join(error.problems))
                return
            except Exception as error:  # noqa: BLE001 - the boundary of one look: a file that is odd just now ends nothing
                log.warning("settings.rejected", reason=type(error).__name__)
                return
            logs.learn(settings.secrets())
            for kind, group in self._groups.items():
                renewed = group.renewed(settings[kind])
                for name, field in kind.model_fields.items():
                    if getattr(renewed, name) != getattr(group, name):
                        log.info("secret.replaced", variable=names(field)[0])
                self._groups[kind] = renewed
