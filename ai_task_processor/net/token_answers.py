"""Parses answers of the token endpoint: a token, or an error with its remedy. Pure.

RFC 6749 §5.1 for tokens, §5.2 and RFC 8707 for errors. Deviations of servers are accepted: any 2xx (NestJS answers a
POST with 201), no ``token_type``, an error with 200.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from ai_task_processor.core import codec
from ai_task_processor.core.errors import InvalidAnswer, RemoteError, Unauthorized
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.oauth_settings import AuthSettings

#: renew when this part of a token's life is over
RENEW_AT = 0.8
#: life of a token without ``expires_in``, which RFC 6749 §5.1 only recommends; a 401 corrects it
ASSUMED_LIFE_S = 300.0
#: bounds of a life: not a token request for every API request, and at least one a day
SHORTEST_LIFE_S, LONGEST_LIFE_S = 1.0, 86_400.0
#: refusals that a retry does not change, and the remedy of each; None: it is about the client itself
_REFUSALS: Final[Mapping[str, str | None]] = {
    "access_denied": (
        "grant this client the API that OAUTH2_AUDIENCE names and the grant client_credentials, "
        "or correct OAUTH2_AUDIENCE and OAUTH2_SCOPE"
    ),
    "invalid_client": None,
    "invalid_grant": None,
    "invalid_request": "compare OAUTH2_AUDIENCE, OAUTH2_SCOPE, OAUTH2_AUTH_METHOD with the client's registration",
    "invalid_scope": "ask for scopes that this client may have: OAUTH2_SCOPE",
    "invalid_target": "the server does not know this audience: OAUTH2_AUDIENCE",
    # Keycloak's word for a wrong secret, too
    "unauthorized_client": (
        "allow this client the grant client_credentials, or correct OAUTH2_CLIENT_ID and its secret or key"
    ),
    "unsupported_grant_type": "this server gives no client_credentials tokens: OAUTH2_TOKEN_URL",
}
_CODE: Final = re.compile(r"[a-z_]{1,40}")
#: statuses of a temporary failure, whatever the body says
_TEMPORARY: Final = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token. ``renew_at`` and ``expires_at`` are on the monotonic clock."""

    value: str = field(repr=False)
    generation: int
    renew_at: float
    expires_at: float
    life_s: float
    scope: str | None = None


def parse_token(body: bytes, *, generation: int, now: float) -> Token:
    """Validate a token answer (RFC 6749 §5.1) strictly. Raises ``InvalidAnswer``; never quotes the body.

    A missing ``token_type`` means bearer: that is the only type that was asked for.
    """
    try:
        answer = codec.loads(body)
    except ValueError as error:
        raise InvalidAnswer("the token endpoint did not answer JSON") from error
    if not isinstance(answer, dict):
        raise InvalidAnswer("the token endpoint did not answer a JSON object")
    value, kind, scope = answer.get("access_token"), answer.get("token_type"), answer.get("scope")
    if not isinstance(value, str) or not value or not all("!" <= char <= "~" for char in value):
        raise InvalidAnswer("the token answer has no usable access_token")
    if kind is not None and not (isinstance(kind, str) and kind.strip().lower() == "bearer"):
        raise InvalidAnswer("the token answer's token_type is not bearer")
    life_s = _life_s(answer.get("expires_in"))
    return Token(
        value=value,
        generation=generation,
        renew_at=now + RENEW_AT * life_s,
        expires_at=now + life_s,
        life_s=life_s,
        scope=scope if isinstance(scope, str) else None,
    )


def _life_s(expires_in: object) -> float:
    if expires_in is None:
        return ASSUMED_LIFE_S
    usable = isinstance(expires_in, int | float | str) and not isinstance(expires_in, bool)
    try:
        life_s = float(expires_in) if usable else 0.0  # type: ignore[arg-type]  # a number or a text
    except (ValueError, OverflowError):
        life_s = 0.0
    if not 0.0 < life_s < float("inf"):
        raise InvalidAnswer("the token answer's expires_in is not a positive number of seconds")
    return min(max(life_s, SHORTEST_LIFE_S), LONGEST_LIFE_S)


def granted(answer: Answer, settings: AuthSettings, *, generation: int, now: float) -> Token:
    """The token in an answer. Raises ``RemoteError`` when there is none."""
    if not answer.is_success or _error(answer.content) is not None:
        raise _refusal(answer, settings)
    return parse_token(answer.content, generation=generation, now=now)


def token_remedy(text: str, settings: AuthSettings) -> str:
    """The remedy of a refusal of the token endpoint. ``text`` contains its code."""
    signed = settings.auth_method == "private_key_jwt"
    secret = "OAUTH2_PRIVATE_KEY_FILE, OAUTH2_ISSUER" if signed else "OAUTH2_CLIENT_SECRET"
    client = f"compare with the client's registration: OAUTH2_CLIENT_ID, {secret}, OAUTH2_AUTH_METHOD"
    return next((remedy for code, remedy in _REFUSALS.items() if remedy and code in text), client)


def _error(content: bytes) -> str | None:
    """The code of an error answer; None for anything else, also for a token that comes with an ``error``."""
    try:
        body = codec.loads(content)
    except ValueError:
        return None
    if not isinstance(body, dict) or body.get("access_token"):
        return None
    code = body.get("error")
    return code if isinstance(code, str) else None


def _refusal(answer: Answer, settings: AuthSettings) -> RemoteError:
    """The error of an answer: by the status for 408, 425, 429 and 5xx, otherwise by the body."""
    status, code = answer.status_code, _error(answer.content)
    if code in _REFUSALS and status < 500 and status not in _TEMPORARY:
        return Unauthorized(f"the token endpoint refuses the client: {code}", status=status)
    if answer.is_success:
        shown = code if code and _CODE.fullmatch(code) else "of an unknown kind"
        return InvalidAnswer(f"the token endpoint answered {status} with an error: {shown}", status=status)
    return status_error(answer, "the token endpoint", setting=settings.url_setting)
