"""The token endpoint: OAuth2 client credentials (RFC 6749, section 4.4; private_key_jwt of RFC 7523)."""

import base64
import secrets
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote_plus

from ai_task_processor.sandbox.answers import Response, answer, oauth_error

_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass(frozen=True, slots=True)
class Grant:
    """The grant of one token."""

    method: str
    scope: str
    audience: str | None
    expires_in: float


@dataclass(frozen=True, slots=True)
class Credentials:
    """``public_key``: PEM of an RSA or EC key; allows ``private_key_jwt``, and then nothing else is accepted."""

    client_id: str = "sandbox-client"
    client_secret: str = "sandbox-secret"  # noqa: S105 - the sandbox's own, printed to be copied
    public_key: str | None = None


class TokenEndpoint:
    """Grants tokens and checks them. Tokens look like JWTs and are opaque."""

    def __init__(self, credentials: Credentials, monotonic: Callable[[], float]) -> None:
        self.credentials = credentials
        self.expires_in: float = 3600
        self.grants: deque[Grant] = deque(maxlen=1000)
        #: the audience that a signed assertion must have
        self.audiences: set[str] = set()
        self._monotonic = monotonic
        self._valid_until: dict[str, float] = {}
        self._seen_assertions: set[str] = set()

    def accepts(self, authorization: str) -> bool:
        """Is this header the bearer of a token that has not expired?"""
        scheme, _, token = authorization.partition(" ")
        return scheme.lower() == "bearer" and self._valid_until.get(token, 0.0) > self._monotonic()

    def revoke(self) -> None:
        """Revoke every token: each request with one of them is answered with 401 from now on."""
        self._valid_until.clear()

    def answer(self, authorization: str, body: bytes) -> Response:
        """The whole endpoint."""
        form = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
        if "grant_type" not in form:
            return oauth_error(400, "invalid_request", "grant_type is missing")
        method, genuine = self._authenticate(authorization, form)
        if not genuine:
            challenge = {"WWW-Authenticate": 'Basic realm="sandbox"'} if authorization else {}
            return oauth_error(401, "invalid_client", f"client authentication failed ({method})", challenge)
        if form["grant_type"] != "client_credentials":
            return oauth_error(400, "unsupported_grant_type", "only client_credentials is supported")
        return self._granted(method, form)

    def _granted(self, method: str, form: Mapping[str, str]) -> Response:
        grant = Grant(method, form.get("scope", ""), form.get("audience"), self.expires_in)
        self.grants.append(grant)
        token = _opaque_token()
        now = self._monotonic()
        self._valid_until = {known: until for known, until in self._valid_until.items() if until > now}
        self._valid_until[token] = now + self.expires_in
        fields = {"access_token": token, "token_type": "bearer", "expires_in": self.expires_in, "scope": grant.scope}
        return answer(fields, headers={"Cache-Control": "no-store"})

    def _authenticate(self, header: str, form: Mapping[str, str]) -> tuple[str, bool]:
        """The method by its registered name, and whether the client's credentials are right."""
        if form.get("client_assertion_type") == _ASSERTION:
            return "private_key_jwt", self._signed_by_client(form.get("client_assertion", ""))
        if header:
            return "client_secret_basic", self._is_client(*_basic(header))
        pair = form.get("client_id", ""), form.get("client_secret", "")
        return "client_secret_post", self._is_client(*pair)

    def _is_client(self, client_id: str, secret: str) -> bool:
        known = self.credentials
        return known.public_key is None and (client_id, secret) == (known.client_id, known.client_secret)

    def _signed_by_client(self, assertion: str) -> bool:
        """RFC 7523, section 3: issuer and subject are the client, the audience is this, it expires, it is used once."""
        if self.credentials.public_key is None:
            return False
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from joserfc import jwk, jwt
        from joserfc.errors import JoseError

        client: jwt.ClaimsOption = {"essential": True, "value": self.credentials.client_id}
        try:
            pem = self.credentials.public_key
            elliptic = isinstance(load_pem_public_key(pem.encode()), EllipticCurvePublicKey)
            key = jwk.import_key(pem, "EC" if elliptic else "RSA")
            claims = jwt.decode(assertion, key, ["RS256", "PS256", "ES256"]).claims
            audience: jwt.ClaimsOption = {"essential": True, "values": sorted(self.audiences)}
            registry = jwt.JWTClaimsRegistry(
                leeway=60, iss=client, sub=client, aud=audience, exp={"essential": True}, jti={"essential": True}
            )
            registry.validate(claims)
        except (JoseError, ValueError):
            return False
        fresh = claims["jti"] not in self._seen_assertions
        self._seen_assertions.add(claims["jti"])
        return fresh


def _basic(header: str) -> tuple[str, str]:
    """Id and secret of a Basic header: form-encoded each before they are joined (RFC 6749, section 2.3.1)."""
    scheme, _, encoded = header.partition(" ")
    try:
        decoded = base64.b64decode(encoded, validate=True).decode() if scheme.lower() == "basic" else ""
    except ValueError:
        decoded = ""
    client_id, _, secret = decoded.partition(":")
    return unquote_plus(client_id), unquote_plus(secret)


def _opaque_token() -> str:
    return f"eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.{secrets.token_urlsafe(90)}.{secrets.token_urlsafe(64)}"
