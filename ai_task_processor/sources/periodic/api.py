"""Requests to the API of a periodic source."""

import time
from collections.abc import Mapping
from http import HTTPStatus

from ai_task_processor.core.errors import RemoteError, Unauthorized
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.services import Services
from ai_task_processor.sources.periodic.profile import PeriodicProfile
from ai_task_processor.sources.periodic.settings import PeriodicSettings

SERVICE = "the task API"
#: one for the list, the others for addresses
CONNECTIONS = 5


class Api:
    """GET requests with the headers of a profile."""

    def __init__(self, services: Services, profile: PeriodicProfile) -> None:
        settings = services.settings[PeriodicSettings]
        self.base_url = settings.base_url
        self._timeout_s = settings.request_timeout_s
        self._profile = profile
        self._secrets = services.secrets
        self._metrics = services.metrics
        self._client = services.client(settings.base_url, CONNECTIONS)

    async def get(self, route: str, target: str) -> Answer:
        """A success, or a 404, which may be about one user. ``route``: the path in the profile, for metrics.

        Raises ``RemoteError``. After a refusal of the secret it is read again, for the next request.
        """
        url, status, started_at = self.base_url + target, None, time.perf_counter()
        try:
            answer = await self._client.exchange("GET", url, headers=self._headers(), timeout_s=self._timeout_s)
            status = answer.status_code
        finally:
            took_s = time.perf_counter() - started_at
            self._metrics.api_request(endpoint=route, method="GET", status_code=status, duration_s=took_s)
        if answer.is_success or answer.status_code == HTTPStatus.NOT_FOUND:
            return answer
        error = refusal(answer, "API_SECRET" if self._profile.needs_secret else "")
        if isinstance(error, Unauthorized):
            await self._secrets.reread()
        raise error

    def _headers(self) -> Mapping[str, str]:
        secret = self._secrets[PeriodicSettings].secret
        text = "" if secret is None else secret.get_secret_value()
        return {name: value.replace("{secret}", text) for name, value in self._profile.headers.items()}

    async def aclose(self) -> None:
        await self._client.aclose()


def refusal(answer: Answer, key: str = "") -> RemoteError:
    """The error for an answer that is no success. ``key``: the variable of the secret."""
    error = status_error(answer, SERVICE)
    if key and isinstance(error, Unauthorized):
        return Unauthorized(f"{error}: correct {key}", status=answer.status_code)
    return error
