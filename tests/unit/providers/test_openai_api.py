"""OpenAI's client on the wire: what is sent, in which form, and what an answer counts as."""

import base64
import contextlib
import json
import traceback
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import httpx2
import numpy as np
import pytest
from respx import Router

from ai_task_processor.core import errors
from ai_task_processor.core.ports import Allowance, RateLimits
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.models.task import Vector
from ai_task_processor.net.client import HttpClient, make_client
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.providers import OPENAI_URL
from ai_task_processor.providers.openai_api import MAX_MODELS, SHAPES_AGAIN_S, OpenAIProvider
from ai_task_processor.providers.settings import ModelSettings
from tests.mock_http import mock_client

KEY = "sk-planted-0123456789"
SMALL = "text-embedding-3-small"
EMBEDDINGS = f"{OPENAI_URL}/embeddings"
SERVER = "https://models.example.com/v1"


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="1", provider="openai", models=[SMALL])


Make = Callable[..., OpenAIProvider]


@pytest.fixture
async def make(metrics: Metrics) -> AsyncIterator[Make]:
    """Builds providers, and closes them at the end."""
    async with contextlib.AsyncExitStack() as opened:

        def made(url: str | None = None, client: HttpClient | None = None, **changes: object) -> OpenAIProvider:
            settings = ModelSettings.model_validate({"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": url})
            client = client or make_client(NetworkSettings.model_validate({}), url=url or OPENAI_URL, connections=2)
            provider = OpenAIProvider(settings.model_copy(update=changes), client, metrics)
            opened.push_async_callback(provider.aclose)
            return provider

        yield made


@pytest.fixture
def openai(make: Make) -> OpenAIProvider:
    """OpenAI itself: dimensions are known."""
    return make()


@pytest.fixture
def compatible(make: Make) -> OpenAIProvider:
    """Somebody else's server: any model, any dimensions."""
    return make(SERVER)


def base64_of(*values: float) -> str:
    return base64.b64encode(np.array(values, "<f4").tobytes()).decode()


def vector_of(*values: float) -> Vector:
    return Vector(np.array(values, "<f4").tobytes())


def embeddings(*vectors: object, usage: object = None) -> dict[str, Any]:
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return {"object": "list", "data": data, "model": "m", "usage": usage or {"prompt_tokens": 7, "total_tokens": 7}}


def refused(message: str, code: object = None, kind: str = "invalid_request_error", param: object = None) -> Any:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


async def error_of(provider: OpenAIProvider, model: str = "m") -> errors.RemoteError | errors.TaskError:
    try:
        await provider.embed(["the user's text"], model)
    except (errors.RemoteError, errors.TaskError) as error:
        return error
    raise AssertionError("no error")


# --- requests


async def test_one_call_on_the_wire(httpx2_mock: Router, openai: OpenAIProvider, metrics: Metrics) -> None:
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


async def test_the_request_is_the_one_the_client_would_send(httpx2_mock: Router, compatible: OpenAIProvider) -> None:
    """Its URL, its key and its headers, but for those that count the client's own repetitions."""
    route = httpx2_mock.post(f"{SERVER}/embeddings").respond(json=embeddings(base64_of(1, 2)))
    await compatible.embed(["ä"], "m")
    body = {"input": ["ä"], "model": "m", "encoding_format": "base64"}
    await compatible._api._api.post("/embeddings", body=body, cast_to=httpx2.Response)
    ours, theirs = (call.request for call in route.calls)
    assert (ours.method, str(ours.url), json.loads(ours.content)) == ("POST", str(theirs.url), body)
    for name in ("x-stainless-retry-count", "x-stainless-async", "content-length"):
        for headers in (ours.headers, theirs.headers):
            headers.pop(name, None)
    assert dict(ours.headers) == dict(theirs.headers)


async def test_dimensions_are_sent_when_they_are_set(httpx2_mock: Router, make: Make) -> None:
    """EMBEDDING_DIMENSIONS travels as ``dimensions`` and is checked in the answer."""
    route = httpx2_mock.post(EMBEDDINGS).respond(json=embeddings(base64_of(1, 2), base64_of(1, 2, 3)))
    assert (await make(embedding_dimensions=2).embed(["a", "b"], SMALL)).vectors == [vector_of(1, 2), None]
    assert json.loads(route.calls.last.request.content)["dimensions"] == 2


async def test_the_environment_is_ignored(httpx2_mock: Router, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
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
    await make().embed(["a"], SMALL)
    request = route.calls.last.request
    assert "environment" not in str(request.url) + str(request.headers.raw)
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert not {"openai-organization", "openai-project"} & set(request.headers)


@pytest.mark.parametrize("status", [401, 402, 404, 408, 425, 429, 500, 503, 524])
async def test_the_client_repeats_nothing(httpx2_mock: Router, openai: OpenAIProvider, status: int) -> None:
    """Retries are ours alone: one failure is one request."""
    route = httpx2_mock.post(EMBEDDINGS).respond(status, json=refused("x"), headers={"x-should-retry": "true"})
    await error_of(openai)
    assert route.call_count == 1


async def test_a_server_without_a_key_is_called(httpx2_mock: Router, make: Make) -> None:
    """A compatible server may want none: something harmless is sent, not the environment's key."""
    route = httpx2_mock.post(f"{SERVER}/embeddings").respond(json=embeddings(base64_of(1.0)))
    await make(SERVER, api_key=None).embed(["a"], "m")
    assert route.calls.last.request.headers["Authorization"] == "Bearer not-needed"


# --- forms of a request


Form = dict[str, object]
FULL: Form = {"encoding_format": "base64", "dimensions": 2}
FLOAT: Form = {"encoding_format": "float", "dimensions": 2}
BASE64_ALONE: Form = {"encoding_format": "base64"}
FLOAT_ALONE: Form = {"encoding_format": "float"}
#: status and content
Answer = tuple[int, object]


class Server:
    """Answers the forms in ``serves``, and others with ``refusals`` in turn; ``asked``: the forms of its calls."""

    def __init__(self, *serves: Form, refusals: Sequence[Answer] = ((400, refused("no")),)) -> None:
        self.serves = serves
        self.refusals = refusals
        self.asked: list[Form] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        body = json.loads(request.content)
        form = {key: value for key, value in body.items() if key not in ("input", "model")}
        self.asked.append(form)
        if form not in self.serves:
            status, content = self.refusals[(len(self.asked) - 1) % len(self.refusals)]
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            return httpx2.Response(status, content=raw)
        vector = base64_of(0.5, 0.25) if form["encoding_format"] == "base64" else [0.5, 0.25]
        return httpx2.Response(200, json=embeddings(*[vector] * len(body["input"])))

    def provider(self, make: Make, dimensions: int | None = None) -> OpenAIProvider:
        return make(SERVER, mock_client(self, SERVER), embedding_dimensions=dimensions)


BAD_BASE64 = base64.b64encode(np.array([0.5, 0.25], ">f8").tobytes()).decode()


@pytest.mark.parametrize(
    ("serves", "asked"),
    [
        (FULL, [FULL]),
        (FLOAT, [FULL, FLOAT]),
        (BASE64_ALONE, [FULL, FLOAT, BASE64_ALONE]),
        (FLOAT_ALONE, [FULL, FLOAT, BASE64_ALONE, FLOAT_ALONE]),
    ],
)
@pytest.mark.parametrize(
    "refusal",
    [
        (400, refused("unsupported")),
        (400, refused("no", param="encoding_format")),
        (422, {"detail": [{"loc": ["body", "encoding_format"], "msg": "x"}]}),
        (400, b"<html>"),
        (200, {"error": {"message": "dimensions is not supported"}}),
        (200, embeddings(BAD_BASE64)),
    ],
    ids=["400", "param", "detail", "page", "200", "vectors"],
)
async def test_the_form_that_a_model_serves_is_found_and_kept(
    make: Make, serves: Form, asked: list[Form], refusal: Answer
) -> None:
    """Base64, then digits, then both without ``dimensions``: each is tried once, and the one that is served stays."""
    server = Server(serves, refusals=[refusal])
    made = server.provider(make, 2)
    for _ in range(3):
        assert (await made.embed(["a"], "m")).vectors == [vector_of(0.5, 0.25)]
    assert server.asked == [*asked, serves, serves]
    await made.embed(["a"], "another")
    assert server.asked[len(asked) + 2 :] == asked, "each model has a form of its own"


async def test_without_dimensions_there_are_two_forms(make: Make) -> None:
    """``dimensions`` is never sent when it is not set."""
    server = Server()
    await error_of(server.provider(make))
    assert server.asked == [BASE64_ALONE, FLOAT_ALONE]


async def test_forms_that_all_fail_are_not_tried_with_every_call(make: Make) -> None:
    """The refusal of the usual form is what is told; the others are tried again a minute later, and may be served."""
    server = Server(refusals=[(400, refused("maximum context length is 8 tokens"))])
    compatible = server.provider(make)
    for _ in range(3):
        error = await error_of(compatible)
        assert isinstance(error, errors.CallRefused)
        assert error.limit == 8
    assert server.asked == [BASE64_ALONE, FLOAT_ALONE, BASE64_ALONE, BASE64_ALONE]
    compatible._tried_at["m"] -= SHAPES_AGAIN_S
    server.serves = (FLOAT_ALONE,)
    assert (await compatible.embed(["a"], "m")).vectors == [vector_of(0.5, 0.25)]
    assert server.asked[4:] == [BASE64_ALONE, FLOAT_ALONE]


async def test_a_form_that_was_served_is_the_only_one(make: Make) -> None:
    """A refusal after that is about the texts; it is not paid for twice."""
    server = Server(BASE64_ALONE)
    compatible = server.provider(make)
    await compatible.embed(["a"], "m")
    server.serves = ()
    for _ in range(2):
        assert type(await error_of(compatible)) is errors.CallRefused
    assert server.asked == [BASE64_ALONE] * 3


async def test_a_model_that_refuses_its_form_by_name_is_asked_anew(make: Make) -> None:
    """It may be another model by now: one call tells, the next finds its form."""
    server = Server(BASE64_ALONE, refusals=[(400, refused("no", param="encoding_format"))])
    compatible = server.provider(make)
    await compatible.embed(["a"], "m")
    server.serves = (FLOAT_ALONE,)
    assert type(await error_of(compatible)) is errors.ModelRefused
    await compatible.embed(["a"], "m")
    assert server.asked == [BASE64_ALONE, BASE64_ALONE, BASE64_ALONE, FLOAT_ALONE]


@pytest.mark.parametrize(
    ("status", "kind"), [(429, errors.Throttled), (500, errors.Transient), (401, errors.Unauthorized)]
)
async def test_what_another_form_meets_is_told(make: Make, status: int, kind: type[Exception]) -> None:
    """An outage or a throttle while forms are tried is what it is, and says nothing about the form."""
    compatible = Server(refusals=[(400, refused("no")), (status, refused("x"))]).provider(make)
    assert type(await error_of(compatible)) is kind
    assert (compatible._tried_at, compatible._served) == ({}, {})


async def test_vectors_of_another_length_than_asked_for_are_none(make: Make) -> None:
    """A server that serves only without ``dimensions``, and vectors of a length of its own, serves nothing."""
    server = Server(BASE64_ALONE, FLOAT_ALONE)
    error = await error_of(server.provider(make, 3))
    assert isinstance(error, errors.CallRefused)
    assert error.status == 400
    assert len(server.asked) == 4


async def test_hostile_model_names_take_bounded_room(make: Make) -> None:
    """Whether they are served or refused, no more than some hundred are remembered."""
    server = Server(BASE64_ALONE)
    compatible = server.provider(make)
    for serves in ((BASE64_ALONE,), ()):
        server.serves = serves
        for number in range(MAX_MODELS + 50):
            with contextlib.suppress(errors.CallRefused):
                await compatible.embed(["a"], f"{len(serves)}-{number}")
    assert len(compatible._served) <= MAX_MODELS
    assert len(compatible._tried_at) <= MAX_MODELS


# --- refusals


@pytest.mark.parametrize(
    ("status", "body", "kind", "outcome"),
    [
        (400, refused("'$.input' is invalid."), errors.CallRefused, "refused_input"),
        (
            400,
            refused("Invalid 'input': array too long.", "array_above_max_length"),
            errors.CallRefused,
            "refused_input",
        ),
        (403, b"<html>blocked</html>", errors.CallRefused, "refused_input"),
        (400, refused("Invalid value: 0", param="dimensions"), errors.ModelRefused, "misconfigured"),
        (404, refused("The model `foo` does not exist.", "model_not_found"), errors.ModelRefused, "misconfigured"),
        (404, refused("Invalid URL (POST /v1/models/embeddings)"), errors.Misconfigured, "misconfigured"),
        (401, refused("Incorrect API key provided: sk-plant*3456789.", "bad_key"), errors.Unauthorized, "unauthorized"),
        (
            403,
            refused("Country not supported", "unsupported_country_region_territory"),
            errors.Unauthorized,
            "unauthorized",
        ),
        (429, refused("Rate limit reached in org-x", "rate_limit_exceeded", "tokens"), errors.Throttled, "throttled"),
        (429, refused("You exceeded your current quota", "insufficient_quota"), errors.QuotaExhausted, "quota"),
        (500, refused("The server had an error", None, "server_error"), errors.Transient, "server_error"),
        (200, {"data": []}, errors.InvalidAnswer, "invalid_answer"),
    ],
)
async def test_each_failure_is_counted_as_what_it_is(
    make: Make, metrics: Metrics, status: int, body: object, kind: type[Exception], outcome: str
) -> None:
    """One class and one outcome for each request; the provider's words, the key and the text are not repeated."""
    server = Server(refusals=[(status, body)])
    error = await error_of(make(None, mock_client(server, OPENAI_URL)), SMALL)
    assert type(error) is kind
    count = metrics.value("model_requests_total", provider="openai", model=SMALL, outcome=outcome)
    assert count == len(server.asked)
    said = str(error) + getattr(error, "message", "")
    assert not any(word in said for word in ("sk-", "org-", "foo", "text-embedding", "user's"))


async def test_the_key_is_in_no_error(httpx2_mock: Router, openai: OpenAIProvider) -> None:
    """Not in the message, even when the provider echoes it; chained errors are the log's to hide."""
    httpx2_mock.post(EMBEDDINGS).respond(401, json=refused(f"Incorrect API key provided: {KEY}"))
    error = await error_of(openai)
    own = "".join(traceback.format_exception(type(error), error, error.__traceback__, chain=False))
    assert KEY not in own + repr(error) + str(error.args)


async def test_a_redirect_is_not_followed(httpx2_mock: Router, openai: OpenAIProvider) -> None:
    httpx2_mock.post(EMBEDDINGS).respond(307, headers={"Location": "https://elsewhere.example.com/"})
    assert type(await error_of(openai)) is errors.Misconfigured
    assert [call.request.url.host for call in httpx2_mock.calls] == ["api.openai.com"]


async def test_a_refused_connection_was_not_sent(httpx2_mock: Router, openai: OpenAIProvider) -> None:
    """The client's own exception is unwrapped to what happened."""
    httpx2_mock.post(EMBEDDINGS).mock(side_effect=httpx2.ConnectError("no"))
    assert type(await error_of(openai)) is errors.Unsent


# --- answers


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"<html>Please log in</html>", errors.InvalidAnswer),
        (b'{"data":[{"index":1,"embedding":[1.0]}]}', errors.InvalidAnswer),
        (b'{"error":{"message":"no"}}', errors.CallRefused),
        (b'{"error":{"code":"insufficient_quota"}}', errors.QuotaExhausted),
    ],
)
async def test_an_answer_is_checked(
    httpx2_mock: Router, compatible: OpenAIProvider, content: bytes, kind: type[Exception]
) -> None:
    """A page, a wrong index, an error: a status of 200 makes no vector of it."""
    httpx2_mock.post(f"{SERVER}/embeddings").respond(200, content=content)
    assert type(await error_of(compatible)) is kind


async def test_openais_own_models_have_known_dimensions(httpx2_mock: Router, openai: OpenAIProvider) -> None:
    httpx2_mock.post(EMBEDDINGS).respond(json=embeddings(base64_of(1, 2)))
    assert type(await error_of(openai, SMALL)) is errors.InvalidAnswer


async def test_limits_come_with_the_answer(httpx2_mock: Router, compatible: OpenAIProvider, metrics: Metrics) -> None:
    """As OpenAI publishes them; without headers there are none."""
    told = {"limit": "10000", "remaining": "9999", "reset": "8.64s"}
    headers = {f"x-ratelimit-{name}-requests": value for name, value in told.items()}
    route = httpx2_mock.post(f"{SERVER}/embeddings").respond(json=embeddings([1.0]), headers=headers)
    assert (await compatible.embed(["a"], "m")).limits == RateLimits(Allowance(10_000, 9_999, 8.64))
    assert metrics.value("model_ratelimit_remaining", kind="requests") == 9_999
    route.respond(json=embeddings([1.0]))
    assert (await compatible.embed(["a"], "m")).limits == RateLimits()


# --- check


@pytest.mark.parametrize(
    ("url", "model", "status", "body", "error"),
    [
        (None, SMALL, 200, {"id": SMALL, "object": "model"}, None),
        (None, "other", 404, refused("no such model", "model_not_found"), errors.ModelRefused),
        (None, "locked", 401, refused("no", "invalid_api_key"), errors.Unauthorized),
        (None, "m", 404, "<html>", errors.Misconfigured),
        (SERVER, "m", 404, {"detail": "Not Found"}, None),  # many compatible servers have no such page
    ],
)
async def test_check_asks_for_the_model(
    httpx2_mock: Router, make: Make, url: Any, model: str, status: int, body: object, error: Any
) -> None:
    """A valid key and a known model cost one free request; an unknown one is told."""
    content = body if isinstance(body, str) else json.dumps(body)
    httpx2_mock.get(f"{url or OPENAI_URL}/models/{model}").respond(status, content=content.encode())
    with pytest.raises(error) if error else contextlib.nullcontext():
        await make(url).check(model)
