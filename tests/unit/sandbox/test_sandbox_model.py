"""The model API's rules and its vectors."""

import json
import math
import struct

import pytest

from ai_task_processor.sandbox.answers import Response, parsed, rendered
from ai_task_processor.sandbox.model import ModelApi, Refusal, checked
from ai_task_processor.sandbox.vectors import DIMENSIONS, as_float32, unit_vector

SMALL = "text-embedding-3-small"


def refusal(**fields: object) -> tuple[int, dict[str, object]]:
    with pytest.raises(Refusal) as refused:
        checked(json.dumps({"model": SMALL, "input": "a"} | fields).encode(), "[[refuse]]")
    return refused.value.response.status, error_of(refused.value.response)


def error_of(response: Response) -> dict[str, object]:
    assert isinstance(response.body, bytes)
    body = parsed(response.body)
    assert isinstance(body, dict)
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return dict(body["error"])


def ask(api: ModelApi, *texts: str, key: str = "key") -> Response:
    body = json.dumps({"model": SMALL, "input": texts}).encode()
    return api.embeddings(f"Bearer {key}", body)


@pytest.mark.parametrize(("model", "dimensions"), DIMENSIONS.items())
def test_vectors_are_deterministic_unit_vectors(model: str, dimensions: int) -> None:
    """Same text, same bits; another text, others; length one; the model's own size."""
    values = unit_vector("текст", model, dimensions).tobytes()
    assert values == unit_vector("текст", model, dimensions).tobytes()
    assert values != unit_vector("text", model, dimensions).tobytes()
    numbers = struct.unpack(f"<{dimensions}f", values)
    assert math.hypot(*numbers) == pytest.approx(1, abs=1e-6)


def test_shortest_digits_give_the_same_bits_back() -> None:
    vector = unit_vector("a", SMALL, 1536)
    assert as_float32(parsed(rendered(vector))) == vector.tobytes()


@pytest.mark.parametrize("value", [[], [True], ["1"], "abc", {"a": 1}, None])
def test_only_lists_of_numbers_are_vectors(value: object) -> None:
    """Anything else is kept as JSON."""
    assert as_float32(value) is None


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"model": "gpt-0"}, 404, "model_not_found"),
        ({"model": None}, 400, None),
        ({"input": ""}, 400, None),
        ({"input": []}, 400, None),
        ({"input": ["a", ""]}, 400, None),
        ({"input": [1, 2]}, 400, None),
        ({"input": ["a"] * 2049}, 400, "array_above_max_length"),
        ({"input": "a" * (4 * 8192 + 1)}, 400, None),
        ({"input": ["a" * 4 * 8192] * 37}, 400, "max_tokens_per_request"),
        ({"input": ["fine", "no [[refuse]]"]}, 400, "content_policy_violation"),
        ({"dimensions": 1537}, 400, None),
        ({"dimensions": 0}, 400, None),
        ({"dimensions": 8, "model": "text-embedding-ada-002"}, 400, None),
        ({"encoding_format": "hex"}, 400, None),
    ],
)
def test_published_limits_are_enforced(fields: dict[str, object], status: int, code: str | None) -> None:
    refused, error = refusal(**fields)
    assert (refused, error["code"]) == (status, code)


def test_limits_themselves_are_allowed() -> None:
    call = checked(json.dumps({"model": SMALL, "input": ["a" * 4 * 8192] + ["a"] * 2047}).encode(), "[[refuse]]")
    assert call.tokens[0] == 8192
    assert len(call.texts) == 2048


def test_body_that_is_no_json_is_refused() -> None:
    with pytest.raises(Refusal):
        checked(b"{", "[[refuse]]")


def test_what_was_charged_is_counted() -> None:
    """Calls, inputs, tokens and repetitions of a text are counted; refused calls are not."""
    api = ModelApi("key", lambda: 0.0)
    assert ask(api, "abcde", "abcde").status == 200
    assert ask(api, "[[refuse]]").status == 400
    assert ask(api, "a", key="wrong").status == 401
    assert (api.calls, api.inputs, api.tokens) == (1, 2, 4)
    assert (api.times_charged("abcde"), api.times_charged("a")) == (2, 0)


def test_an_allowance_is_shown_and_not_enforced() -> None:
    """The rate-limit headers count down and come back, and nothing is refused."""
    now = [0.0]
    api = ModelApi("key", lambda: now[0])
    remaining = []
    for now[0] in (0.0, 0.0, 60.0):
        remaining.append(ask(api, "abcd").headers["x-ratelimit-remaining-requests"])
    assert remaining == ["9999", "9998", "9999"]
    assert {ask(api, "x" * 4 * 8000).status for _ in range(2_000)} == {200}
    assert ask(api, "abcd").headers["x-ratelimit-remaining-tokens"] == "0"


def test_a_limit_is_enforced_when_it_is_asked_for() -> None:
    """Above it 429 with the seconds to wait; it is refilled all the time, and refused calls do not use it up."""
    now = [0.0]
    api = ModelApi("key", lambda: now[0])
    api.limit(requests_per_minute=60, depth=2)
    answers = [ask(api, "abcd") for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    assert answers[-1].headers["Retry-After"] == "1"
    assert answers[1].headers["x-ratelimit-reset-requests"] == "2.000s"
    now[0] = 1.0
    assert [ask(api, "abcd").status for _ in range(2)] == [200, 429]
    assert (api.calls, api.throttled) == (3, 3)


def test_a_limit_of_tokens_counts_what_a_call_holds() -> None:
    """One that holds more than is left is refused, a smaller one is served, and without headers nothing warns."""
    api = ModelApi("key", lambda: 0.0)
    api.limit(tokens_per_minute=100, announced=False)
    refused = ask(api, "x" * 404)
    assert (refused.status, refused.headers["Retry-After"]) == (429, "1")
    served = ask(api, "x" * 400)
    assert served.status == 200
    assert not [name for name in served.headers if name.startswith("x-ratelimit")]
