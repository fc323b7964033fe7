"""Secrets that are replaced while the process runs: read again after a refusal, and when an operator says so.

Kubernetes, Vault agents and people rewrite secret files, and a token or a call is refused from then on. The
settings are frozen, so what may change is kept here.
"""

import asyncio
from collections.abc import Callable

from pydantic import SecretStr

from ai_task_processor.core.errors import ConfigurationError
from ai_task_processor.core.settings import AuthSettings, ModelSettings, Settings
from ai_task_processor.ops import logs

log = logs.get_logger(__name__)


class Secrets:
    """The groups of the settings that hold secrets for remotes, with the secrets as they were read last.

    ``read`` reads the settings as at the start; only secrets are taken from it. Without it nothing changes.
    """

    def __init__(self, settings: Settings, read: Callable[[], Settings] | None = None) -> None:
        self.auth: AuthSettings = settings.auth
        self.model: ModelSettings = settings.model
        self._read = read
        self._lock = asyncio.Lock()

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
            before = self._held()
            self.auth = self.auth.model_copy(
                update={
                    "client_secret": settings.auth.client_secret,
                    "private_key_pem": settings.auth.private_key_pem,
                }
            )
            # A key that comes or goes would be another mode: that takes a restart.
            if settings.model.mode == self.model.mode:
                self.model = self.model.model_copy(update={"api_key": settings.model.api_key})
            for name, secret in self._held().items():
                if secret != before[name]:
                    log.info("secret.replaced", variable=name)

    def _held(self) -> dict[str, SecretStr | None]:
        return {
            "OAUTH2_CLIENT_SECRET": self.auth.client_secret,
            "OAUTH2_PRIVATE_KEY_FILE": self.auth.private_key_pem,
            "OPENAI_API_KEY": self.model.api_key,
        }
