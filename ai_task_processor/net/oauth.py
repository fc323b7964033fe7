"""OAuth2 client credentials: one shared token, renewed before it expires, requested by one caller at a time.

authlib builds and signs the token request. Its session is not used: with it every waiter requests a token, any JSON
passes for one, expiry follows the wall clock, and a 401 does not renew.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from typing import Self
from urllib.parse import quote_plus

from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_token_request

from ai_task_processor.core.checks import Check, Finding, Remote, Stopwatch, ok, refused, shown, warning
from ai_task_processor.core.errors import CircuitOpen, NoToken, RemoteError, Unauthorized
from ai_task_processor.core.ports import Clock
from ai_task_processor.net.client import HttpClient
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.net.resilience import Gate, backoff_s
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.net.services import Services
from ai_task_processor.net.token_answers import Token, granted, token_remedy
from ai_task_processor.ops.condition import Condition
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.ops.metrics import Metrics

TOKEN_TIMEOUT_S = 15.0
#: share of a request's deadline for a token request inside it, so that its timeout is not taken for the request's own
TOKEN_SHARE = 0.5
#: an assertion is used at once; servers refuse long-lived ones, seconds
ASSERTION_LIFE_S = 300
_HEADERS = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded"}

log = get_logger(__name__)


class TokenSource:
    """Returns the current token; renews it at 80 % of its life, or after a 401.

    Single flight: the first caller that needs a renewal makes it, the others wait for it, unless the current token is
    still valid. A failed renewal fails all that wait, and is not retried before its backoff is over. ``timeout_s`` is
    the total for one token request: it must be below the deadline of the requests that wait for it, or their timeout
    counts against their own remote.
    """

    def __init__(
        self,
        settings: AuthSettings,
        client: HttpClient,
        *,
        gate: Gate,
        clock: Clock,
        metrics: Metrics,
        rng: random.Random,
        timeout_s: float = TOKEN_TIMEOUT_S,
        secrets: Secrets | None = None,
    ) -> None:
        self.current: Token | None = None
        self.remote = Remote("token endpoint", settings.url_setting, settings.token_url)
        self._condition: str | None = None
        self._settings = settings
        self.client = client
        self._gate = gate
        self._clock = clock
        self._metrics = metrics
        self._rng = rng
        self._timeout_s = timeout_s
        self._secrets = secrets
        self._lock = asyncio.Lock()
        self._failures = 0
        self._retry_at = 0.0
        self._rejected = -1
        self._doubted = -1
        self._refusals = Condition("token.refused", "token.accepted")

    @classmethod
    def build(cls, services: Services, *, within_s: float) -> Self:
        """``within_s``: the deadline of the requests that wait for a token."""
        settings = services.settings[AuthSettings]
        return cls(
            settings,
            services.client(settings.token_url, 2),
            timeout_s=min(TOKEN_TIMEOUT_S, TOKEN_SHARE * within_s),
            gate=services.gate("token"),
            clock=services.clock,
            metrics=services.metrics,
            rng=services.rng,
            secrets=services.secrets,
        )

    def status(self) -> Mapping[str, object]:
        """For ``/status``."""
        expires_in_s = None if self.current is None else round(self.current.expires_at - self._clock.monotonic(), 1)
        return {"held": self.held, "trouble": self.problem, "expires_in_seconds": expires_in_s}

    @property
    def held(self) -> bool:
        """Is there a token that has not expired?"""
        return self.current is not None and self._alive(self.current)

    @property
    def problem(self) -> str | None:
        """Why there is no token; None while one is valid, or no renewal has failed since."""
        return None if self.held else self._condition

    def check(self) -> Check:
        """For ``doctor``: is a token granted, with all scopes?"""
        return Check("token", self._checked, self.remote.setting, (self.remote,))

    async def _checked(self) -> AsyncIterator[Finding]:
        settings, watch = self._settings, Stopwatch()
        try:
            token = await self.token()
        except RemoteError as error:
            yield refused(error, self.remote, {Unauthorized: token_remedy(str(error), settings)})
            return
        yield ok(f"granted to {settings.client_id} for {token.life_s:g} s ({watch})")
        granted_scope = settings.scope if token.scope is None else token.scope  # RFC 6749 §5.1: left out means as asked
        if withheld := set(settings.scope.split()) - set(granted_scope.split()):
            text = f"it lacks scopes that were asked for: {shown(sorted(withheld))}"
            yield warning(text, "allow them to this client, or change OAUTH2_SCOPE")

    async def token(self) -> Token:
        """The current token, renewed when it is due. Raises ``NoToken``."""
        token = self.current
        if token is not None and self._alive(token):
            renewing = self._lock.locked()
            if renewing or self._clock.monotonic() < token.renew_at:
                return token
        return await self._renew(token)

    async def renewed(self, stale: Token) -> Token:
        """A token of a later generation than ``stale``, which was answered with 401."""
        self.refused(stale)
        self._rejected = max(self._rejected, stale.generation)
        return await self._renew(stale)

    def refused(self, token: Token) -> None:
        """A request with ``token`` was answered with 401: a condition until a later token lasts for its whole life."""
        self._metrics.token_refused()
        self._doubted = max(self._doubted, token.generation)
        what = "had expired" if self._clock.monotonic() >= token.expires_at else "had not expired"
        self._refusals.note(f"the task API answered 401 to a token that {what}")

    def _alive(self, token: Token) -> bool:
        return token.generation > self._rejected and self._clock.monotonic() < token.expires_at

    async def _renew(self, seen: Token | None) -> Token:
        async with self._lock:
            token = self.current
            if token is not None and token is not seen and self._alive(token):
                return token
            try:
                token = await self._fetch()
            except RemoteError:
                if token is not None and self._alive(token):
                    return token
                raise
            if seen is not None and seen.generation > self._doubted:
                self._refusals.note(None)
            self.current = token
            return token

    async def _fetch(self) -> Token:
        wait_s = max(self._retry_at - self._clock.monotonic(), self._gate.wait_s())
        if wait_s > 0:
            raise NoToken(f"no token: {self._condition}", retry_after_s=wait_s)
        try:
            token = await self._gate.call(self._requested)
        except RemoteError as error:
            self._note_failure(error)
            wait_s = max(self._retry_at - self._clock.monotonic(), self._gate.wait_s())
            raise NoToken(f"no token: {error}", retry_after_s=wait_s) from error
        self._failures, self._condition = 0, None
        self._metrics.token_request("ok")
        self._metrics.token_expires(self._clock.now().timestamp() + token.life_s)
        log.info("token.refreshed", generation=token.generation, life_s=token.life_s)
        return token

    def _note_failure(self, error: RemoteError) -> None:
        if isinstance(error, CircuitOpen):
            return
        self._metrics.token_request("rejected" if isinstance(error, Unauthorized) else "error")
        changed, self._condition = str(error) != self._condition, str(error)
        self._retry_at = self._clock.monotonic() + 0.5 + backoff_s(self._failures, base=2.0, longest=30, rng=self._rng)
        self._failures += 1
        remedy = {"remedy": token_remedy(self._condition, self._settings)} if isinstance(error, Unauthorized) else {}
        (log.warning if changed else log.debug)("token.failed", reason=self._condition, **remedy)

    async def _requested(self) -> Token:
        """Request a token; when the client is refused, once more if its secret was replaced since this request."""
        used = self._credentials
        try:
            return await self._request()
        except Unauthorized:
            await self._reread()
            if self._credentials == used:
                raise
        return await self._request()

    @property
    def _credentials(self) -> tuple[object, object]:
        return self._settings.client_secret, self._settings.private_key_pem

    async def _reread(self) -> None:
        if self._secrets is not None:
            await self._secrets.reread()
            self._settings = self._secrets[AuthSettings]

    async def look_again(self) -> None:
        """On SIGHUP: read the secrets, and let the next caller request a token at once."""
        await self._reread()
        self._retry_at = 0.0
        self._gate.due()

    async def _request(self) -> Token:
        url, headers, body = self._signed()
        started_at, status = self._clock.monotonic(), None
        try:
            answer = await self.client.exchange(
                "POST", url, headers=headers, content=body.encode(), timeout_s=self._timeout_s
            )
            status = answer.status_code
        finally:
            took_s = self._clock.monotonic() - started_at
            self._metrics.api_request(endpoint="/oauth2/token", method="POST", status_code=status, duration_s=took_s)
        generation = self.current.generation + 1 if self.current else 1
        return granted(answer, self._settings, generation=generation, now=self._clock.monotonic())

    def _signed(self) -> tuple[str, dict[str, str], str]:
        """The token request, built and signed by authlib. The audience goes with every renewal."""
        settings = self._settings
        extra = {"audience": settings.audience} if settings.audience else {}
        body = prepare_token_request("client_credentials", "", scope=settings.scope or None, **extra)
        client_id = settings.client_id
        secret = settings.client_secret.get_secret_value() if settings.client_secret else ""
        if settings.auth_method == "private_key_jwt":
            from authlib.oauth2.rfc7523 import PrivateKeyJWT  # brings cryptography: nine megabytes

            key = settings.private_key_pem
            assert key is not None  # noqa: S101 - the settings refuse private_key_jwt without a key
            issued_at = int(self._clock.now().timestamp())
            claims = {"iat": issued_at, "exp": issued_at + ASSERTION_LIFE_S}
            method = PrivateKeyJWT(settings.issuer or settings.token_url, claims)
            auth = ClientAuth(client_id, key.get_secret_value(), method)
        elif settings.auth_method == "client_secret_basic":
            # RFC 6749 §2.3.1: id and secret are form-encoded before they are joined; authlib joins only
            auth = ClientAuth(quote_plus(client_id), quote_plus(secret), settings.auth_method)
        else:
            auth = ClientAuth(client_id, secret, settings.auth_method)
        url, headers, body = auth.prepare("POST", settings.token_url, dict(_HEADERS), body)
        return url, headers, body
