"""The HTTP clients of a source, with the tokens and headers that its profile asks for."""

from collections.abc import Callable, Mapping
from functools import partial

from ai_task_processor.net.client import MAX_ANSWER_BYTES, HttpClient
from ai_task_processor.net.oauth import TokenSource
from ai_task_processor.net.push import Push
from ai_task_processor.net.services import Services
from ai_task_processor.sources.rest.profile import PushPart, RestProfile
from ai_task_processor.sources.rest.settings import ApiSettings, SecretSettings


def polling_client(profile: RestProfile, services: Services, tokens: TokenSource | None) -> HttpClient:
    """For the list: a streamed one is unbounded."""
    return _client(profile, services, 2, tokens, None if profile.listing.streamed else MAX_ANSWER_BYTES)


def delivering_client(profile: RestProfile, services: Services, tokens: TokenSource | None) -> HttpClient:
    """For requests about one task."""
    return _client(profile, services, services.settings.delivery.concurrency, tokens)


def push_connection(
    profile: RestProfile,
    services: Services,
    tokens: TokenSource | None,
    part: PushPart,
    woken: Callable[[bytes | None], None],
) -> Push:
    """``woken`` is called as ``Push`` says."""
    client, url = _client(profile, services, 1, tokens), services.settings[ApiSettings].base_url + part.path
    return Push(client, url, woken, clock=services.clock, rng=services.rng, metrics=services.metrics)


def _client(
    profile: RestProfile,
    services: Services,
    connections: int,
    tokens: TokenSource | None,
    max_answer_bytes: int | None = MAX_ANSWER_BYTES,
) -> HttpClient:
    url = services.settings[ApiSettings].base_url
    client = services.client(url, connections, tokens=tokens, max_answer_bytes=max_answer_bytes)
    if profile.headers:
        client.always = partial(_headers, profile, services)
    return client


def _headers(profile: RestProfile, services: Services) -> Mapping[str, str]:
    """The profile's, with the secret as it was read last."""
    if not profile.has_secret:
        return profile.headers
    secret = services.secrets[SecretSettings].secret.get_secret_value()
    return {name: text.replace("{secret}", secret) for name, text in profile.headers.items()}
