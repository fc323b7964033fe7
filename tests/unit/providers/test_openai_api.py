"""OpenAI's published answers, and those of servers like it: whose fault is what."""

import base64
import json
import traceback
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import numpy as np
import pytest
import respx
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.errors import (
    InputRefused,
    InvalidAnswer,
    Misconfigured,
    ModelRefused,
    NeighbourError,
    QuotaExhausted,
    TaskError,
    Throttled,
    Transient,
    Unauthorized,
    Unsent,
)
from ai_task_processor.metrics import Metrics
from ai_task_processor.models.task import Vector
from ai_task_processor.ports import Allowance, RateLimits
from ai_task_processor.providers import OPENAI_URL
from ai_task_processor.providers.openai_api import LONGEST_RESET_S, OpenAIProvider, duration_s, parse_limits
from ai_task_processor.settings import ModelSettings, NetworkSettings
from ai_task_processor.transport import make_client

KEY = "sk-planted-0123456789"
SMALL = "text-embedding-3-small"
EMBEDDINGS = f"{OPENAI_URL}/embeddings"
SERVER = "https://models.example.com/v1"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1", provider="openai", models=[SMALL])


def provider(metrics: Metrics, url: str | None = None, **changes: object) -> OpenAIProvider:
    settings = ModelSettings.model_validate({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": url}).model_copy(update=changes)
    client = make_client(NetworkSettings.model_validate({}), url=url or OPENAI_URL, connections=2)
    return OpenAIProvider(settings, client, metrics)


@pytest.fixture
async def openai(metrics: Metrics) -> AsyncIterator[OpenAIProvider]:
    """OpenAI itself: dimensions are known."""
    made = provider(metrics)
    yield made
    await made.aclose()


@pytest.fixture
async def compatible(metrics: Metrics) -> AsyncIterator[OpenAIProvider]:
    """Somebody else's server: any model, any dimensions."""
    made = provider(metrics, SERVER)
    yield made
    await made.aclose()


def base64_of(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def vector_of(*values: float) -> Vector:
    return Vector(np.array(values, "<f4").tobytes())


def embeddings(*vectors: object, usage: object = None) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "m", "usage": usage or {"prompt_tokens": 7, "total_tokens": 7}}


def refused(message: str, code: object = None, kind: str = "invalid_request_error", param: object = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def error_of(provider: OpenAIProvider, model: str = "m") -> NeighbourError | TaskError:
    try:
        await provider.embed(["the user's text"], model)
    except (NeighbourError, TaskError) as error:
        return error
    raise AssertionError("no error")


# --- requests


async def test_one_call_on_the_wire(httpx2_mock: respx.Router, openai: OpenAIProvider, metrics: Metrics) -> None:
    """Texts, model and base64 are sent under the key, ``dimensions`` is not; vectors come in the order of the texts."""
    answer = embeddings(base64_of(*[0.5] * 1536), base64_of(*[0.25] * 1536))
    answer["data"].reverse()
    route = httpx2_mock.post(EMBEDDINGS).respond(json=answer, headers={"x-ratelimit-remaining-tokens": "999"})
    got = await openai.embed(["a", "b"], SMALL)
    assert got.vectors == [vector_of(*[0.5] * 1536), vector_of(*[0.25] * 1536)]
    assert got.usage.prompt_tokens == 7
    request = route.calls.last.request
    assert json.loads(request.content) == {"input": ["a", "b"], "model": SMALL, "encoding_format": "base64"}
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["Accept-Encoding"] == "identity"
    assert metrics.value("model_requests_total", provider="openai", model=SMALL, outcome="ok") == 1
    assert metrics.value("model_tokens_total", provider="openai", model=SMALL, type="prompt") == 7
    assert metrics.value("model_ratelimit_remaining", kind="tokens") == 999


async def test_the_request_is_the_one_that_the_client_would_send(
    httpx2_mock: respx.Router, compatible: OpenAIProvider
) -> None:
    """Its URL, its key and its headers, but for those that count the client's own repetitions."""
    route = httpx2_mock.post(f"{SERVER}/embeddings").respond(json=embeddings(base64_of(1, 2)))
    await compatible.embed(["ä"], "m")
    body = {"input": ["ä"], "model": "m", "encoding_format": "base64"}
    await compatible._api.post("/embeddings", body=body, cast_to=httpx2.Response)
    ours, theirs = (call.request for call in route.calls)
    assert (ours.method, str(ours.url), json.loads(ours.content)) == ("POST", str(theirs.url), body)
    counted = {"x-stainless-retry-count", "x-stainless-async", "content-length"}
    assert {name: value for name, value in ours.headers.items() if name not in counted} == {
        name: value for name, value in theirs.headers.items() if name not in counted
    }


async def test_dimensions_are_sent_when_they_are_set(httpx2_mock: respx.Router, metrics: Metrics) -> None:
    """EMBEDDING_DIMENSIONS travels as ``dimensions`` and is checked in the answer."""
    route = httpx2_mock.post(EMBEDDINGS).respond(json=embeddings(base64_of(1, 2), base64_of(1, 2, 3)))
    short = provider(metrics, embedding_dimensions=2)
    assert (await short.embed(["a", "b"], SMALL)).vectors == [vector_of(1, 2), None]
    assert json.loads(route.calls.last.request.content)["dimensions"] == 2
    await short.aclose()


async def test_the_environment_is_ignored(
    httpx2_mock: respx.Router, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that the client would read from its own variables reaches a request."""
    planted = {
        "OPENAI_API_KEY": "sk-environment",
        "OPENAI_ADMIN_KEY": "sk-environment",
        "OPENAI_ORG_ID": "org-environment",
        "OPENAI_PROJECT_ID": "proj-environment",
        "OPENAI_BASE_URL": "https://environment.example.com",
        "OPENAI_CUSTOM_HEADERS": "Authorization: Bearer sk-environment\nX-Environment: environment",
        "OPENAI_LOG": "debug",
        "HTTPS_PROXY": "http://environment.example.com",
    }
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    route = httpx2_mock.post(EMBEDDINGS).respond(json=embeddings(base64_of(*[1.0] * 1536)))
    made = provider(metrics)
    await made.embed(["a"], SMALL)
    request = route.calls.last.request
    assert "environment" not in str(request.url) + str(request.headers.raw)
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert not {"openai-organization", "openai-project"} & set(request.headers)
    await made.aclose()


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
async def test_the_client_repeats_nothing(httpx2_mock: respx.Router, openai: OpenAIProvider, status: int) -> None:
    """Retries are ours alone: one failure is one request."""
    route = httpx2_mock.post(EMBEDDINGS).respond(status, json=refused("x"), headers={"x-should-retry": "true"})
    await error_of(openai)
    assert route.call_count == 1


async def test_a_server_without_a_key_is_called(httpx2_mock: respx.Router, metrics: Metrics) -> None:
    """A compatible server may want none: something harmless is sent, not the environment's key."""
    route = httpx2_mock.post(f"{SERVER}/embeddings").respond(json=embeddings(base64_of(1.0)))
    keyless = provider(metrics, SERVER, api_key=None)
    await keyless.embed(["a"], "m")
    assert route.calls.last.request.headers["Authorization"] == "Bearer not-needed"
    await keyless.aclose()


# --- refusals


LIMIT = "Rate limit reached for text-embedding-3-small in organization org-x on tokens per min (TPM): Limit 1000000."
LONG = "This model's maximum context length is 8192 tokens, however you requested 9001 tokens (9001 in your prompt; 0 for the completion). Please reduce your prompt; or completion length."  # noqa: E501  as published


@pytest.mark.parametrize(
    ("status", "body", "kind", "outcome"),
    [
        (400, refused("'$.input' is invalid."), InputRefused, "refused_input"),
        (400, refused("Invalid 'input': array too long.", "array_above_max_length"), InputRefused, "refused_input"),
        (422, refused("no"), InputRefused, "refused_input"),
        (400, refused("This model does not support specifying dimensions."), ModelRefused, "misconfigured"),
        (400, refused("Invalid value: 0", param="dimensions"), ModelRefused, "misconfigured"),
        (400, refused("you must provide a model parameter", param="model"), ModelRefused, "misconfigured"),
        (400, refused("foo is not a valid model ID"), ModelRefused, "misconfigured"),
        (400, refused("Invalid model name passed in model=foo."), ModelRefused, "misconfigured"),
        (400, refused("x", param=["model"]), InputRefused, "refused_input"),
        (404, refused("The model `m` does not exist.", "model_not_found"), ModelRefused, "misconfigured"),
        (403, refused("Project x does not have access to it.", "model_not_found"), ModelRefused, "misconfigured"),
        (404, refused('model "m" not found, try pulling it first'), ModelRefused, "misconfigured"),
        (404, refused("Invalid URL (POST /v1/models/embeddings)"), Misconfigured, "misconfigured"),
        (
            401,
            refused("Incorrect API key provided: sk-plant*3456789.", "invalid_api_key"),
            Unauthorized,
            "unauthorized",
        ),
        (403, refused("Country not supported", "unsupported_country_region_territory"), Unauthorized, "unauthorized"),
        (429, refused(LIMIT, "rate_limit_exceeded", "tokens"), Throttled, "throttled"),
        (429, refused("You exceeded your current quota", "insufficient_quota"), QuotaExhausted, "quota"),
        (429, refused("You exceeded your current quota", None, "insufficient_quota"), QuotaExhausted, "quota"),
        (429, refused("Your account is not active", "billing_not_active"), QuotaExhausted, "quota"),
        (402, refused("Insufficient credits", 402), QuotaExhausted, "quota"),
        (500, refused("The server had an error", None, "server_error"), Transient, "server_error"),
        (503, refused("overloaded", None, "server_error"), Transient, "server_error"),
    ],
)
async def test_published_refusals(
    httpx2_mock: respx.Router,
    openai: OpenAIProvider,
    metrics: Metrics,
    status: int,
    body: object,
    kind: type[Exception],
    outcome: str,
) -> None:
    """Each refusal has one class and one outcome; its words, the key and the text are not repeated."""
    httpx2_mock.post(EMBEDDINGS).respond(status, json=body)
    error = await error_of(openai, SMALL)
    assert type(error) is kind
    assert metrics.value("model_requests_total", provider="openai", model=SMALL, outcome=outcome) == 1
    said = str(error) + getattr(error, "message", "")
    assert not any(word in said for word in ("sk-", "org-", "foo", "text-embedding", "user's"))


@pytest.mark.parametrize("status", [400, 404, 413, 422])
@pytest.mark.parametrize("body", [b"<html>nginx</html>", b'{"detail":[{"loc":["body"]}]}', b'"x"', b""])
async def test_a_refusal_that_is_not_the_apis_own_is_about_us(
    httpx2_mock: respx.Router, openai: OpenAIProvider, status: int, body: bytes
) -> None:
    """A proxy's page never fails a task."""
    httpx2_mock.post(EMBEDDINGS).respond(status, content=body)
    error = await error_of(openai)
    assert type(error) is Misconfigured
    assert error.status == status


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, None, LONG),
        (400, "context_length_exceeded", "no"),
        (400, None, "Invalid 'input[0]': maximum input length is 8192 tokens."),
        (400, "string_above_max_length", "Invalid 'input': string too long."),
        (400, "max_tokens_per_request", "Requested 400000 tokens, max 300000 tokens per request"),
        (
            400,
            400,
            "This model's maximum context length is 512 tokens. However, you requested 600 tokens in the input.",
        ),
        (413, 413, "Input validation error: `inputs` must have less than 512 tokens. Given: 600"),
        (400, 400, "the input length exceeds the context length"),
        (400, 400, "input (600 tokens) is too large to process. increase the physical batch size"),
        (400, 400, "the request exceeds the available context size, try increasing it"),
        (400, None, "Input id 0 has 9000 tokens, exceeding max 8192 tokens."),
    ],
)
async def test_a_text_that_is_too_long_is_called_so(
    httpx2_mock: respx.Router, compatible: OpenAIProvider, status: int, code: object, message: str
) -> None:
    """In the words of OpenAI, vLLM, Text Embeddings Inference, Ollama, llama.cpp and Mistral."""
    httpx2_mock.post(f"{SERVER}/embeddings").respond(status, json=refused(message, code))
    error = await error_of(compatible)
    assert isinstance(error, InputRefused)
    assert error.code == "text_too_long"


@pytest.mark.parametrize(
    "message",
    [
        "Your input was refused by our usage policies.",
        "'$.input' is invalid.",
        "Invalid 'input': array too long. Expected at most 2048 items, got 2049.",
        "The maximum number of retries was reached for this input.",
        "",
    ],
)
async def test_another_refusal_is_not_called_too_long(
    httpx2_mock: respx.Router, compatible: OpenAIProvider, message: str
) -> None:
    """A word like maximum or long alone does not make it one."""
    httpx2_mock.post(f"{SERVER}/embeddings").respond(400, json=refused(message))
    error = await error_of(compatible)
    assert isinstance(error, InputRefused)
    assert error.code == "input_refused"


async def test_a_flat_error_is_understood(httpx2_mock: respx.Router, compatible: OpenAIProvider) -> None:
    """Some servers leave out the ``error`` around it."""
    body = {"object": "error", "message": "The model `m` does not exist.", "type": "NotFoundError", "code": 404}
    httpx2_mock.post(f"{SERVER}/embeddings").respond(404, json=body)
    assert isinstance(await error_of(compatible), ModelRefused)


@pytest.mark.parametrize("status", [429, 503])
async def test_retry_after_is_the_providers_wish(
    httpx2_mock: respx.Router, openai: OpenAIProvider, status: int
) -> None:
    """The header's seconds reach the gate."""
    httpx2_mock.post(EMBEDDINGS).respond(status, json=refused(LIMIT), headers={"Retry-After": "17"})
    error = await error_of(openai)
    assert isinstance(error, Throttled)
    assert error.retry_after_s == 17


async def test_the_key_is_in_no_error(httpx2_mock: respx.Router, openai: OpenAIProvider) -> None:
    """Not in the message, even when the provider echoes it; chained errors are the log's to hide."""
    httpx2_mock.post(EMBEDDINGS).respond(401, json=refused(f"Incorrect API key provided: {KEY}"))
    error = await error_of(openai)
    own = "".join(traceback.format_exception(type(error), error, error.__traceback__, chain=False))
    assert KEY not in own + repr(error) + str(error.args)


async def test_a_redirect_is_not_followed(httpx2_mock: respx.Router, openai: OpenAIProvider) -> None:
    """The key goes to nobody else."""
    httpx2_mock.post(EMBEDDINGS).respond(307, headers={"Location": "https://elsewhere.example.com/"})
    assert type(await error_of(openai)) is Misconfigured
    assert [call.request.url.host for call in httpx2_mock.calls] == ["api.openai.com"]


async def test_a_refused_connection_was_not_sent(httpx2_mock: respx.Router, openai: OpenAIProvider) -> None:
    """The client's own exception is unwrapped to what happened."""
    httpx2_mock.post(EMBEDDINGS).mock(side_effect=httpx2.ConnectError("no"))
    assert type(await error_of(openai)) is Unsent


# --- answers


@pytest.mark.parametrize(
    "content",
    [
        b"<html>Please log in</html>",
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"data":null}',
        b'{"data":[]}',
        b'{"data":{}}',
        b'{"data":[null]}',
        b'{"data":[{"embedding":[1.0]}]}',
        b'{"data":[{"index":"0","embedding":[1.0]}]}',
        b'{"data":[{"index":false,"embedding":[1.0]}]}',
        b'{"data":[{"index":1,"embedding":[1.0]}]}',
        b'{"data":[{"index":-1,"embedding":[1.0]}]}',
        b'{"data":[{"index":0}]}',
        b'{"data":[{"index":0,"embedding":[]}]}',
        b'{"data":[{"index":0,"embedding":[0.0,0.0]}]}',
        b'{"data":[{"index":0,"embedding":[NaN]}]}',
        b'{"data":[{"index":0,"embedding":[1e999]}]}',
        b'{"data":[{"index":0,"embedding":"AADAfw=="}]}',
        b'{"data":[{"index":0,"embedding":[1.0]},{"index":1,"embedding":[1.0]}]}',
    ],
)
async def test_an_answer_without_a_usable_vector_is_invalid(
    httpx2_mock: respx.Router, compatible: OpenAIProvider, content: bytes
) -> None:
    """HTML, missing data, wrong counts and indices, NaN, zeros: the neighbour's fault, to be tried again."""
    httpx2_mock.post(f"{SERVER}/embeddings").respond(200, content=content)
    assert type(await error_of(compatible)) is InvalidAnswer


@pytest.mark.parametrize("indices", [(0, 0), (1, 1), (0, 2)])
async def test_every_index_comes_once(
    httpx2_mock: respx.Router, compatible: OpenAIProvider, indices: tuple[int, int]
) -> None:
    """A doubled or foreign index makes every vector doubtful."""
    answer = embeddings([1.0], [2.0])
    for item, index in zip(answer["data"], indices, strict=True):
        item["index"] = index
    httpx2_mock.post(f"{SERVER}/embeddings").respond(json=answer)
    with pytest.raises(InvalidAnswer):
        await compatible.embed(["a", "b"], "m")


async def test_one_bad_vector_does_not_spoil_the_others(httpx2_mock: respx.Router, compatible: OpenAIProvider) -> None:
    """Each unusable vector is None, the odd dimension among equals included."""
    answer = embeddings([1.0, 2.0], [0.0, 0.0], [1.0], base64_of(3.0, 4.0), "garbage", None)
    httpx2_mock.post(f"{SERVER}/embeddings").respond(json=answer)
    got = await compatible.embed(list("abcdef"), "m")
    assert got.vectors == [vector_of(1, 2), None, None, vector_of(3, 4), None, None]


async def test_openais_own_models_have_known_dimensions(httpx2_mock: respx.Router, openai: OpenAIProvider) -> None:
    """Two floats are no vector of text-embedding-3-small."""
    httpx2_mock.post(EMBEDDINGS).respond(json=embeddings(base64_of(1, 2)))
    assert type(await error_of(openai, SMALL)) is InvalidAnswer


async def test_digits_are_rounded_to_float32(httpx2_mock: respx.Router, compatible: OpenAIProvider) -> None:
    """A server that ignores base64 and answers doubles gives the nearest float32."""
    httpx2_mock.post(f"{SERVER}/embeddings").respond(json=embeddings([0.1, 1 / 3]))
    assert (await compatible.embed(["a"], "m")).vectors == [vector_of(0.1, 1 / 3)]


@pytest.mark.parametrize("usage", [{}, "x", {"prompt_tokens": -1}, {"prompt_tokens": "7"}, {"prompt_tokens": 2**60}])
async def test_nonsense_usage_counts_nothing(
    httpx2_mock: respx.Router, compatible: OpenAIProvider, usage: object
) -> None:
    """A vector is worth more than its bill."""
    answer = embeddings([1.0]) | {"usage": usage}
    httpx2_mock.post(f"{SERVER}/embeddings").respond(json=answer)
    assert (await compatible.embed(["a"], "m")).usage.total_tokens == 0


# --- limits


ALL = {
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-reset-requests": "8.64s",
    "x-ratelimit-limit-tokens": "1000000",
    "x-ratelimit-remaining-tokens": "0",
    "x-ratelimit-reset-tokens": "6m0s",
}


async def test_limits_come_with_the_answer(
    httpx2_mock: respx.Router, compatible: OpenAIProvider, metrics: Metrics
) -> None:
    """As OpenAI publishes them, of both kinds; without headers there are none."""
    route = httpx2_mock.post(f"{SERVER}/embeddings").respond(json=embeddings([1.0]), headers=ALL)
    got = await compatible.embed(["a"], "m")
    assert got.limits == RateLimits(Allowance(10_000, 9_999, 8.64), Allowance(1_000_000, 0, 360.0))
    assert metrics.value("model_ratelimit_remaining", kind="requests") == 9_999
    route.respond(json=embeddings([1.0]))
    assert (await compatible.embed(["a"], "m")).limits == RateLimits()


@pytest.mark.parametrize("missing", ["limit", "remaining", "reset"])
@pytest.mark.parametrize("nonsense", [None, "", "-1", "nan", "inf", "1e3", "9" * 16, "١٢", "7, 8", "soon", "10y"])
def test_a_kind_of_which_one_header_makes_no_sense_is_ignored(missing: str, nonsense: str | None) -> None:
    """All three or nothing; the other kind stays as it is."""
    headers = dict(ALL)
    del headers[f"x-ratelimit-{missing}-requests"]
    if nonsense is not None:
        headers[f"x-ratelimit-{missing}-requests"] = nonsense
    assert parse_limits(headers) == RateLimits(None, Allowance(1_000_000, 0, 360.0))


@pytest.mark.parametrize(("limit", "remaining"), [("0", "0"), ("10", "11")])
def test_a_contradiction_is_ignored(limit: str, remaining: str) -> None:
    """A limit of nothing, or more left than there is."""
    headers = ALL | {"x-ratelimit-limit-requests": limit, "x-ratelimit-remaining-requests": remaining}
    assert parse_limits(headers).requests is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("12ms", 0.012),
        ("1h2m3.5s", 3723.5),
        ("523µs", 0.000523),
        ("24h", 86_400.0),
        ("0", 0.0),
        ("17", 17.0),
        ("1.25", 1.25),
        ("24h0m0.1s", None),
        ("87600h", None),
        ("1 s", None),
        ("s", None),
        ("1.s", None),
        ("+1s", None),
        ("1s ", None),
    ],
)
def test_durations_are_read(text: str, seconds: float | None) -> None:
    """Go's form, as OpenAI writes it, and plain seconds; a reset that is more than a day away is none."""
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))


@given(
    headers=st.fixed_dictionaries(
        {name: st.one_of(st.text(max_size=40), st.from_regex(r"[0-9.hms]{0,40}")) for name in ALL}
    )
)
def test_whatever_stands_in_a_header_makes_sense_or_nothing(headers: dict[str, str]) -> None:
    """No text raises, and what comes out keeps its promise."""
    for allowance in (parse_limits(headers).requests, parse_limits(headers).tokens):
        if allowance is not None:
            assert 0 <= allowance.remaining <= allowance.limit < 10**15
            assert allowance.limit > 0
            assert 0 <= allowance.reset_s <= LONGEST_RESET_S


# --- check


async def test_check_asks_for_the_model(httpx2_mock: respx.Router, openai: OpenAIProvider) -> None:
    """A valid key and a known model cost one free request; an unknown one is told."""
    httpx2_mock.get(f"{OPENAI_URL}/models/{SMALL}").respond(json={"id": SMALL, "object": "model"})
    httpx2_mock.get(f"{OPENAI_URL}/models/other").respond(404, json=refused("no such model", "model_not_found"))
    httpx2_mock.get(f"{OPENAI_URL}/models/locked").respond(401, json=refused("no", "invalid_api_key"))
    await openai.check(SMALL)
    with pytest.raises(ModelRefused):
        await openai.check("other")
    with pytest.raises(Unauthorized):
        await openai.check("locked")


async def test_check_passes_a_server_without_model_pages(
    httpx2_mock: respx.Router, compatible: OpenAIProvider, openai: OpenAIProvider
) -> None:
    """Many compatible servers have no such page; OpenAI has."""
    httpx2_mock.get(f"{SERVER}/models/m").respond(404, json={"detail": "Not Found"})
    httpx2_mock.get(f"{OPENAI_URL}/models/m").respond(404, content=b"<html>")
    await compatible.check("m")
    with pytest.raises(Misconfigured):
        await openai.check("m")
