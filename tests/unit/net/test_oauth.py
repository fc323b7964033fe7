"""The token source in virtual time: one token for all, asked for gently, whatever the endpoint answers."""

import asyncio
import base64
import json
import random
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr
from structlog.testing import capture_logs

from ai_task_processor.core.errors import InvalidAnswer, NoToken
from ai_task_processor.core.reading import load_settings
from ai_task_processor.core.settings import Settings
from ai_task_processor.net.oauth import TokenSource
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.net.resilience import Gate
from ai_task_processor.net.secrets import Secrets
from ai_task_processor.net.token_answers import parse_token
from ai_task_processor.ops.logs import masked
from ai_task_processor.ops.metrics import Metrics
from tests.mock_http import mock_client

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

TOKEN_URL = "https://id.example.com/oauth2/token"
API = "https://api.example.com/x"
SETTINGS = AuthSettings.model_validate(
    {"OAUTH2_TOKEN_URL": TOKEN_URL, "OAUTH2_CLIENT_ID": "client", "OAUTH2_CLIENT_SECRET": "s3cret"}
)
INVALID_CLIENT = b'{"error":"invalid_client"}'
Reply = Callable[[], httpx2.Response]


def granted(**changes: object) -> httpx2.Response:
    answer = {"access_token": "token", "token_type": "bearer", "expires_in": 3600} | changes
    return httpx2.Response(200, json={key: value for key, value in answer.items() if value is not ...})


class Endpoint:
    """Answers token requests with ``answer`` after ``takes_s``; numbers the tokens when ``answer`` is None.

    ``meanwhile`` runs once while a request is under way.
    """

    def __init__(self, clock: "FakeClock") -> None:
        self.answer: Reply | None = None
        self.life_s: object = 3600
        self.takes_s = 0.0
        self.meanwhile: Callable[[], Awaitable[None]] | None = None
        self.requests: list[httpx2.Request] = []
        self.clock = clock

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        await self.clock.sleep(self.takes_s)
        if (meanwhile := self.meanwhile) is not None:
            self.meanwhile = None
            await meanwhile()
        if self.answer is not None:
            return self.answer()
        return granted(access_token=f"token{len(self.requests)}", expires_in=self.life_s)


@pytest.fixture
def endpoint(clock: "FakeClock") -> Endpoint:
    return Endpoint(clock)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1", provider="openai")


Make = Callable[..., TokenSource]


@pytest.fixture
def make(clock: "FakeClock", endpoint: Endpoint, metrics: Metrics) -> Make:
    def make(secrets: Secrets | None = None, **changes: object) -> TokenSource:
        settings = secrets[AuthSettings] if secrets else SETTINGS.model_copy(update=changes)
        return TokenSource(
            settings,
            mock_client(endpoint, settings.token_url),
            gate=Gate("token", threshold=5, clock=clock, metrics=metrics),
            clock=clock,
            metrics=metrics,
            rng=random.Random(7),
            secrets=secrets,
        )

    return make


@pytest.fixture
def tokens(make: Make) -> TokenSource:
    return make()


def answering(status: int, content: bytes = b"", **headers: str) -> Reply:
    return lambda: httpx2.Response(status, content=content, headers=headers)


async def refusal(tokens: TokenSource) -> NoToken:
    with pytest.raises(NoToken) as refused:
        await tokens.token()
    return refused.value


def events(lines: Iterable[Any], *names: str) -> list[Any]:
    return [line for line in lines if line["event"] in names]


# --- one token for all


async def test_many_first_uses_make_one_request(tokens: TokenSource, endpoint: Endpoint, metrics: Metrics) -> None:
    endpoint.takes_s = 1.0
    got = await asyncio.gather(*(tokens.token() for _ in range(32)))
    assert {token.value for token in got} == {"token1"}
    assert len(endpoint.requests) == 1
    assert metrics.value("token_requests_total", outcome="ok") == 1


async def test_many_401s_of_one_generation_make_one_renewal(tokens: TokenSource, endpoint: Endpoint) -> None:
    """32 callers whose token was refused share one renewal; a latecomer of the old generation costs none."""
    stale = await tokens.token()
    endpoint.takes_s = 1.0
    got = await asyncio.gather(*(tokens.renewed(stale) for _ in range(32)))
    got.append(await tokens.renewed(stale))
    assert {token.generation for token in got} == {2}
    assert len(endpoint.requests) == 2


async def test_renewal_at_80_percent_of_the_life(tokens: TokenSource, endpoint: Endpoint) -> None:
    """A token of an hour is used for 48 minutes."""
    await tokens.token()
    endpoint.clock.advance(2879)
    await tokens.token()
    assert len(endpoint.requests) == 1
    endpoint.clock.advance(1)
    assert (await tokens.token()).value == "token2"


@pytest.mark.parametrize(("life_s", "most"), [(30, 26), ("30", 26), (0.001, 752)])
async def test_a_short_token_lasts(tokens: TokenSource, endpoint: Endpoint, life_s: object, most: int) -> None:
    """20 requests a second over ten minutes: a 30 s token is fetched every 24 s, an absurd one every 0.8 s."""
    endpoint.life_s = life_s
    for _ in range(12_000):
        await tokens.token()
        endpoint.clock.advance(0.05)
    assert 0.9 * most <= len(endpoint.requests) <= most


async def test_nobody_waits_for_a_renewal_while_the_token_lives(tokens: TokenSource, endpoint: Endpoint) -> None:
    """One caller renews; the others go on with the present token instead of queueing behind a slow endpoint."""
    await tokens.token()
    endpoint.clock.advance(3000)
    endpoint.takes_s = 10.0
    renewal = asyncio.create_task(tokens.token())
    await asyncio.sleep(0)
    before = endpoint.clock.monotonic()
    assert (await tokens.token()).value == "token1"
    assert endpoint.clock.monotonic() == before
    assert (await renewal).value == "token2"


async def test_the_old_token_serves_while_a_renewal_fails(tokens: TokenSource, endpoint: Endpoint) -> None:
    """A dead endpoint is no problem before the token is over; then it is one, and it ends by itself."""
    await tokens.token()
    endpoint.answer = answering(500)
    endpoint.clock.advance(3000)
    assert (await tokens.token()).value == "token1"
    assert (tokens.held, tokens.problem) == (True, None)
    endpoint.clock.advance(600)
    await refusal(tokens)
    assert (tokens.held, tokens.problem) == (False, "the token endpoint answered 500")
    endpoint.answer = None
    endpoint.clock.advance(60)
    assert (await tokens.token()).generation == 2
    assert tokens.problem is None


async def test_a_refused_token_is_never_handed_out_again(tokens: TokenSource, endpoint: Endpoint) -> None:
    stale = await tokens.token()
    endpoint.answer = answering(503)
    with pytest.raises(NoToken):
        await tokens.renewed(stale)
    await refusal(tokens)
    assert not tokens.held


async def test_an_expired_token_that_nobody_asked_for_is_no_problem(tokens: TokenSource, endpoint: Endpoint) -> None:
    """Between two polls a 30 s token may run out: readiness does not flap for it."""
    endpoint.life_s = 30
    await tokens.token()
    endpoint.clock.advance(31)
    assert (tokens.held, tokens.problem) == (False, None)


async def test_the_wall_clock_changes_nothing(tokens: TokenSource, endpoint: Endpoint) -> None:
    """Years forward or back: the token lives as long as it was said to live."""
    await tokens.token()
    for years in (10, -20, 10):
        endpoint.clock.jump(timedelta(days=365 * years).total_seconds())
        await tokens.token()
    assert len(endpoint.requests) == 1


async def test_a_cancelled_renewal_leaves_the_next_caller_free(tokens: TokenSource, endpoint: Endpoint) -> None:
    endpoint.takes_s = 5.0
    first, second = (asyncio.create_task(tokens.token()) for _ in range(2))
    await endpoint.clock.sleep(1)
    first.cancel()
    assert (await second).value == "token2"
    with pytest.raises(asyncio.CancelledError):
        await first


# --- a failing endpoint


@pytest.mark.parametrize(
    ("answer", "most"),
    [
        (answering(500), 27),
        (answering(200, b"<html>log in</html>"), 27),
        (answering(200, b"{}"), 27),
        (answering(404, b"<html>"), 7),
        (answering(400, INVALID_CLIENT), 7),
        (answering(401, INVALID_CLIENT), 7),
        (answering(403, b'{"error":"access_denied"}'), 7),
        (answering(429, b'{"error":"slow_down"}'), 17),
        (answering(429, b'{"error":"slow_down"}', **{"Retry-After": "120"}), 6),
    ],
    ids=["500", "html", "empty", "404", "400", "401", "403", "429", "429 for 2 min"],
)
async def test_a_failing_endpoint_is_asked_gently(
    tokens: TokenSource, endpoint: Endpoint, answer: Reply, most: int
) -> None:
    """Ten minutes with ten callers, each asking every second: no more requests than the kind of failure deserves."""
    endpoint.answer = answer

    async def insist() -> None:
        for _ in range(600):
            assert ((await refusal(tokens)).retry_after_s or 0) > 0
            await endpoint.clock.sleep(1.0)

    await asyncio.gather(*(insist() for _ in range(10)))
    assert 2 <= len(endpoint.requests) <= most


async def test_a_rejected_client_is_told_once(tokens: TokenSource, endpoint: Endpoint, metrics: Metrics) -> None:
    """One warning names the refusal, pauses grow from 10 s to 5 min, and the counter says rejected."""
    endpoint.answer = answering(401, INVALID_CLIENT)
    waits = []
    with capture_logs() as lines:
        for _ in range(7):
            waits.append((await refusal(tokens)).retry_after_s or 0)
            endpoint.clock.advance(waits[-1])
    assert waits[0] == 10
    assert waits[-2:] == [300, 300]
    warned = [line["reason"] for line in events(lines, "token.failed") if line["log_level"] == "warning"]
    assert warned == ["the token endpoint refuses the client: invalid_client"]
    assert metrics.value("token_requests_total", outcome="rejected") == 7


@pytest.mark.parametrize("content", [b"{}", INVALID_CLIENT, b"<html>"])
async def test_a_retry_after_of_the_endpoint_is_heeded(tokens: TokenSource, endpoint: Endpoint, content: bytes) -> None:
    endpoint.answer = answering(429, content, **{"Retry-After": "77"})
    assert (await refusal(tokens)).retry_after_s == 77


async def test_a_hanging_endpoint_is_given_up(tokens: TokenSource, endpoint: Endpoint) -> None:
    tokens._timeout_s = 0.01
    hang = asyncio.Event()

    async def wait(_: httpx2.Request) -> httpx2.Response:
        await hang.wait()
        raise AssertionError("it was to be given up")

    tokens.client = mock_client(wait, TOKEN_URL)
    with pytest.raises(NoToken, match=r"no answer within 0\.01 s"):
        await tokens.token()


# --- the answer


def parsed(**changes: object) -> Any:
    return parse_token(granted(**changes).content, generation=1, now=100.0)


@pytest.mark.parametrize(
    ("expires_in", "life_s"),
    [(3600, 3600), ("3600", 3600), (30, 30), (29.5, 29.5), (..., 300), (None, 300), (10**9, 86_400), (0.5, 1)],
)
def test_the_life_of_a_token(expires_in: object, life_s: float) -> None:
    """Numbers and their texts count, nothing is a guess of five minutes, and a day is the most."""
    token = parsed(expires_in=expires_in)
    assert token.life_s == life_s
    assert token.expires_at == 100 + life_s
    assert token.renew_at == pytest.approx(100 + 0.8 * life_s)


@pytest.mark.parametrize("kind", ["bearer", "Bearer", "BEARER", " Bearer ", None, ...])
def test_the_token_type_is_written_as_you_like(kind: object) -> None:
    """RFC 6749 §5.1: the type is case insensitive; some servers leave it out, and mean bearer."""
    assert parsed(token_type=kind).value == "token"


UNUSABLE: dict[str, list[object]] = {
    "access_token": [..., "", 5, "to\nken", "to ken", "tökén"],
    "token_type": ["mac", "DPoP", "", 5],
    "expires_in": ["soon", -5, 0, True, "nan", "inf", [3600]],
}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in UNUSABLE.items() for value in values], ids=repr
)
def test_an_unusable_answer_is_no_token(field: str, value: object) -> None:
    """What cannot be sent in a header, is no bearer token or lives for no time is refused, without quoting it."""
    with pytest.raises(InvalidAnswer) as refused:
        parsed(**{field: value})
    assert "ken" not in str(refused.value).replace("token", "")


ENDLESS_LIFE = b'{"access_token":"t","token_type":"bearer","expires_in":1e999}'


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b"[]", b"null", b'"token"', ENDLESS_LIFE, b"\xff", b"[" * 100_000],
    ids=lambda body: repr(body[:20]),
)
def test_what_is_no_token_answer_is_refused(body: bytes) -> None:
    """HTML, other JSON and numbers that are none."""
    with pytest.raises(InvalidAnswer):
        parse_token(body, generation=1, now=0)


def test_a_token_is_not_in_its_own_repr() -> None:
    assert "token" not in repr(parsed(access_token="xyz-token-xyz")).replace("Token", "")


@pytest.mark.parametrize("status", [200, 201, 202, 203])
async def test_any_success_with_a_token_is_a_grant(tokens: TokenSource, endpoint: Endpoint, status: int) -> None:
    """NestJS answers a POST with 201 unless told otherwise."""
    endpoint.answer = lambda: httpx2.Response(status, json={"access_token": "token", "expires_in": "60"})
    token = await tokens.token()
    assert (token.value, token.life_s) == ("token", 60)


@pytest.mark.parametrize(
    ("status", "content", "reason", "remedy"),
    [
        (403, b'{"error":"access_denied"}', "refuses the client: access_denied",
         ("OAUTH2_AUDIENCE", "grant client_credentials")),
        (400, b'{"error":"unauthorized_client"}', "unauthorized_client", ("client_credentials", "OAUTH2_CLIENT_ID")),
        (400, b'{"error":"invalid_scope"}', "invalid_scope", ("OAUTH2_SCOPE",)),
        (400, b'{"error":"invalid_target"}', "invalid_target", ("OAUTH2_AUDIENCE",)),
        (422, INVALID_CLIENT, "invalid_client", ("OAUTH2_CLIENT_SECRET",)),
        (200, INVALID_CLIENT, "invalid_client", ("OAUTH2_CLIENT_SECRET",)),
        (401, b"<html>", "answered 401", ("OAUTH2_CLIENT_SECRET",)),
        (200, b'{"error":"server_error"}', "answered 200 with an error: server_error", ()),
        (200, b'{"error":"Mind your secret"}', "answered 200 with an error: of an unknown kind", ()),
        (500, INVALID_CLIENT, "answered 500", ()),
        (204, b"", "did not answer JSON", ()),
    ],
)  # fmt: skip
async def test_a_refusal_of_the_endpoint_names_where_to_mend_it(
    tokens: TokenSource, endpoint: Endpoint, status: int, content: bytes, reason: str, remedy: tuple[str, ...]
) -> None:
    """The log says what was refused, by its code, and which setting or grant is to be changed."""
    endpoint.answer = answering(status, content)
    with capture_logs() as lines, pytest.raises(NoToken, match=reason):
        await tokens.token()
    (line,) = events(lines, "token.failed")
    assert reason in line["reason"]
    assert [word for word in remedy if word not in line.get("remedy", "")] == []
    assert ("remedy" in line) == bool(remedy)


@pytest.mark.parametrize(
    ("changes", "location", "words"),
    [
        ({"custom_token_url": "http://id.example.com/token"}, "https://id.example.com/token",
         "use https in OAUTH2_TOKEN_URL"),
        ({}, "/login?client=secret", "another path or port of https://id.example.com: correct OAUTH2_TOKEN_URL"),
        ({"custom_token_url": None, "project_slug": "slug"}, "https://elsewhere.example.com/x",
         "https://elsewhere.example.com: correct ORY_PROJECT_SLUG"),
    ],
)  # fmt: skip
async def test_a_redirected_endpoint_names_its_setting(
    make: Make, endpoint: Endpoint, changes: dict[str, object], location: str, words: str
) -> None:
    """A redirect is not followed: it says what to write instead."""
    endpoint.answer = answering(308, Location=location)
    with pytest.raises(NoToken, match=words):
        await make(**changes).token()


# --- secrets that are replaced


class Rotated:
    """A token source whose secret is in a file, and an endpoint that takes one secret only."""

    def __init__(self, make: Make, endpoint: Endpoint, directory: Path) -> None:
        self.file = directory / "secret"
        self.valid = "first-secret"
        self.file.write_text("first-secret\n")
        self.tokens = make(Secrets(self.read(), self.read))
        self._endpoint = endpoint
        endpoint.answer = self.answer

    def read(self) -> Settings:
        names = {"OAUTH2_TOKEN_URL": TOKEN_URL, "OAUTH2_CLIENT_ID": "client"}
        return load_settings(names | {"OAUTH2_CLIENT_SECRET_FILE": str(self.file)}, None, groups=[AuthSettings])

    def answer(self) -> httpx2.Response:
        value = self._endpoint.requests[-1].headers["Authorization"].removeprefix("Basic ")
        if base64.b64decode(value).decode() != f"client:{self.valid}":
            return httpx2.Response(401, json={"error": "invalid_client"})
        return granted(access_token=f"token{len(self._endpoint.requests)}")


@pytest.fixture
def rotated(make: Make, endpoint: Endpoint, tmp_path: Path) -> Rotated:
    return Rotated(make, endpoint, tmp_path)


async def test_a_replaced_secret_is_read_after_a_refusal(rotated: Rotated, endpoint: Endpoint) -> None:
    """The refused request is repeated at once with the new secret, which is masked from then on."""
    await rotated.tokens.token()
    rotated.valid = "second-secret"
    rotated.file.write_text("second-secret")
    assert rotated.tokens.current is not None
    with capture_logs() as lines:
        token = await rotated.tokens.renewed(rotated.tokens.current)
    assert (token.value, len(endpoint.requests)) == ("token3", 3)
    assert [line["variable"] for line in events(lines, "secret.replaced")] == ["OAUTH2_CLIENT_SECRET"]
    assert masked("it was second-secret") == "it was ***"


async def test_a_secret_that_stays_wrong_is_tried_once_for_each_probe(rotated: Rotated, endpoint: Endpoint) -> None:
    """Without another secret a refusal is one request; a file that cannot be read leaves the old secret in use."""
    rotated.valid = "another"
    for change, rejected in ((lambda: None, 0), (lambda: rotated.file.write_text(""), 1), (rotated.file.unlink, 1)):
        change()
        asked = len(endpoint.requests)
        with capture_logs() as lines:
            error = await refusal(rotated.tokens)
        assert len(endpoint.requests) == asked + 1
        assert len(events(lines, "settings.rejected")) == rejected
        endpoint.clock.advance(error.retry_after_s or 0)
    rotated.file.write_text("another")
    assert (await rotated.tokens.token()).generation == 1


async def test_looking_again_takes_a_new_secret_before_any_refusal(rotated: Rotated, endpoint: Endpoint) -> None:
    """After SIGHUP the first request carries the new secret, and the pause of the old one is over."""
    rotated.valid = "second-secret"
    await refusal(rotated.tokens)
    rotated.file.write_text("second-secret")
    await rotated.tokens.look_again()
    await rotated.tokens.token()
    assert len(endpoint.requests) == 2


async def test_a_secret_that_is_replaced_during_a_request_is_tried(rotated: Rotated, endpoint: Endpoint) -> None:
    """SIGHUP comes while the old secret is being refused: that is no reason for a pause of minutes."""

    async def hang_up() -> None:
        rotated.file.write_text("second-secret")
        await rotated.tokens.look_again()

    rotated.valid = "second-secret"
    endpoint.meanwhile = hang_up
    await rotated.tokens.token()
    assert len(endpoint.requests) == 2


# --- the request


async def sent(tokens: TokenSource, endpoint: Endpoint) -> tuple[httpx2.Request, dict[str, list[str]]]:
    await tokens.token()
    request = endpoint.requests[-1]
    return request, parse_qs(request.content.decode(), strict_parsing=True)


async def test_client_secret_basic_on_the_wire(make: Make, endpoint: Endpoint) -> None:
    """RFC 6749 §2.3.1: id and secret are form-encoded before they are joined and encoded again."""
    request, form = await sent(make(client_id="a:b c%", client_secret=SecretStr("p&ä+/=")), endpoint)
    scheme, _, value = request.headers["Authorization"].partition(" ")
    assert (scheme, base64.b64decode(value)) == ("Basic", b"a%3Ab+c%25:p%26%C3%A4%2B%2F%3D")
    assert form == {"grant_type": ["client_credentials"], "scope": ["read write"]}
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Accept"] == "application/json"
    assert (request.method, str(request.url)) == ("POST", TOKEN_URL)


async def test_client_secret_post_on_the_wire(make: Make, endpoint: Endpoint) -> None:
    source = make(client_id="a:b c%", client_secret=SecretStr("p&ä+/="), auth_method="client_secret_post")
    request, form = await sent(source, endpoint)
    assert (form["client_id"], form["client_secret"]) == (["a:b c%"], ["p&ä+/="])
    assert "Authorization" not in request.headers


async def test_the_audience_goes_with_every_renewal(make: Make, endpoint: Endpoint) -> None:
    """First token and renewal ask for the same audience and scope; an empty scope is not sent."""
    source = make(audience="https://api.example.com/?a=b&c", scope="")
    _, form = await sent(source, endpoint)
    assert source.current is not None
    await source.renewed(source.current)
    again = parse_qs(endpoint.requests[-1].content.decode())
    assert form == again == {"grant_type": ["client_credentials"], "audience": ["https://api.example.com/?a=b&c"]}


@pytest.mark.parametrize(
    ("issuer", "audience"), [(None, TOKEN_URL), ("https://id.example.com", "https://id.example.com")]
)
async def test_private_key_jwt_on_the_wire(make: Make, endpoint: Endpoint, issuer: str | None, audience: str) -> None:
    """RFC 7523 §3: a signed assertion with iss, sub, aud, exp and a jti that is never used twice."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    source = make(auth_method="private_key_jwt", private_key_pem=SecretStr(pem), client_secret=None, issuer=issuer)
    seen = set()
    for _ in range(2):
        request, form = await sent(source, endpoint)
        assert form["client_assertion_type"] == ["urn:ietf:params:oauth:client-assertion-type:jwt-bearer"]
        assert "Authorization" not in request.headers
        claims = jwt.decode(form["client_assertion"][0], RSAKey.import_key(pem), algorithms=["RS256"]).claims
        now = int(endpoint.clock.now().timestamp())
        seen.add(claims.pop("jti"))
        assert claims.items() >= {"iss": "client", "sub": "client", "aud": audience}.items()
        assert (claims["iat"], claims["exp"]) == (now, now + 300)
        endpoint.clock.advance(3600)
    assert len(seen) == 2


# --- the bearer


class Api:
    """Refuses every token whose number is not above ``refused_up_to``."""

    def __init__(self, refused_up_to: int = 0) -> None:
        self.refused_up_to = refused_up_to
        self.seen: list[str] = []

    async def __call__(self, request: httpx2.Request) -> httpx2.Response:
        value = request.headers["Authorization"].removeprefix("Bearer ")
        self.seen.append(value)
        await asyncio.sleep(0)
        accepted = int(value.removeprefix("token")) > self.refused_up_to
        return httpx2.Response(200 if accepted else 401, content=request.content)


def signed(tokens: TokenSource, api: Api) -> httpx2.AsyncClient:
    """With httpx2's API: what it sends is signed in the one place where everything is."""
    return mock_client(api, API, tokens=tokens).over_httpx2()


@pytest.mark.parametrize(
    ("method", "calls", "refused_up_to", "status"),
    [("PATCH", 1, 1, 200), ("GET", 32, 1, 200), ("GET", 1, 99, 401)],
    ids=["repeated", "a storm", "refused again"],
)
async def test_a_401_renews_and_repeats_once(
    tokens: TokenSource, endpoint: Endpoint, method: str, calls: int, refused_up_to: int, status: int
) -> None:
    """With the same body, and one renewal for all. A second 401 is an answer, not tried for ever."""
    client = signed(tokens, api := Api(refused_up_to))
    answers = await asyncio.gather(*(client.request(method, API, content=b"body") for _ in range(calls)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(status, b"body")}
    assert calls > 1 or api.seen == ["token1", "token2"]
    assert len(endpoint.requests) == 2


async def test_a_refused_token_is_told_once_until_one_is_good_for_its_life(
    tokens: TokenSource, clock: "FakeClock", metrics: Metrics
) -> None:
    """A storm of mended 401s is one line and 32 in the metric; the next token that lives to its renewal ends it."""
    client = signed(tokens, Api(refused_up_to=1))
    await tokens.token()
    with capture_logs() as lines:
        await asyncio.gather(*(client.get(API) for _ in range(32)))
        clock.advance(3600)
        await client.get(API)
    first, last = events(lines, "token.refused", "token.accepted")
    reason = "the task API answered 401 to a token that had not expired"
    assert (first["event"], first["log_level"], first["reason"]) == ("token.refused", "warning", reason)
    assert (last["event"], last["log_level"], last["after"]) == ("token.accepted", "info", reason)
    assert metrics.value("token_refusals_total") == 32


async def test_an_api_that_refuses_every_token_is_told_once(
    tokens: TokenSource, endpoint: Endpoint, metrics: Metrics
) -> None:
    """A probe every five minutes, and each token is refused: one line, although those tokens end in between."""
    endpoint.life_s = 60
    client = signed(tokens, Api(refused_up_to=99))
    with capture_logs() as lines:
        for _ in range(10):
            assert (await client.get(API)).status_code == 401
            endpoint.clock.advance(300)
    assert [line["event"] for line in lines if line["event"] != "token.refreshed"] == ["token.refused"]
    assert metrics.value("token_refusals_total") == 20


async def test_a_token_that_expired_on_its_way_is_called_so(tokens: TokenSource, clock: "FakeClock") -> None:
    """A 401 after the end of a token is nobody's mistake, and its line says which of the two it was."""
    stale = await tokens.token()
    clock.advance(3600)
    with capture_logs() as lines:
        await tokens.renewed(stale)
    (line,) = events(lines, "token.refused")
    assert line["reason"] == "the task API answered 401 to a token that had expired"


async def test_without_a_token_nothing_is_sent(tokens: TokenSource, endpoint: Endpoint) -> None:
    endpoint.answer = answering(500)
    api = Api()
    with pytest.raises(NoToken):
        await signed(tokens, api).get(API)
    assert api.seen == []


async def test_no_secret_reaches_the_log(make: Make, endpoint: Endpoint) -> None:
    source = make(client_secret=SecretStr("hush-hush"))
    with capture_logs() as lines:
        token = await source.token()
        endpoint.answer = answering(500, b"hush-hush " + token.value.encode())
        with pytest.raises(NoToken) as refused:
            await source.renewed(token)
    written = json.dumps(lines) + str(refused.value)
    assert "hush" not in written
    assert token.value not in written
