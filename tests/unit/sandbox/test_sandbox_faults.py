"""Faults: which request meets which, and what is played."""

import random
from typing import Any

import pytest

from ai_task_processor.sandbox.answers import parsed
from ai_task_processor.sandbox.faults import Fault, Faults, false_answer

MESSAGE = "Too Many Requests (a fault of the sandbox)"


def rate_limit(kind: str, code: str) -> dict[str, object]:
    return {"error": {"message": MESSAGE, "type": kind, "param": None, "code": code}}


@pytest.fixture
def faults() -> Faults:
    return Faults(random.Random(1))


def test_a_fault_meets_what_it_names_so_many_times(faults: Faults) -> None:
    """Endpoint, task id and a piece of text narrow it, ``times`` counts, and ``clear`` ends all."""
    fault = faults.add("patch", status=500, task_id="a", times=2)
    faults.add("model", status=500, text="böse")
    assert faults.pick("pending") is None
    assert faults.pick("patch", task_id="b") is None
    assert [faults.pick("patch", task_id="a") for _ in range(3)] == [fault, fault, None]
    bodies = [b'{"input": ["gut", "sehr b\\u00f6se"]}', b'{"input": "gut"}', b"not JSON"]
    assert [faults.pick("model", body=body) is not None for body in bodies] == [True, False, False]
    faults.clear()
    assert faults.pick("model", body=bodies[0]) is None


def test_probability_is_repeatable() -> None:
    def hits() -> list[bool]:
        some = Faults(random.Random(1))
        some.add("pending", status=500, probability=0.2)
        return [some.pick("pending") is not None for _ in range(1000)]

    assert hits() == hits()
    assert 150 < sum(hits()) < 250


@pytest.mark.parametrize("how", [{"endpoint": "moon"}, {"endpoint": "token", "colour": 1}])
def test_nonsense_is_refused(faults: Faults, how: dict[str, object]) -> None:
    """An unknown endpoint or field is an error at once, not a fault that never happens."""
    with pytest.raises((ValueError, TypeError)):
        faults.add(**how)  # type: ignore[arg-type]  # nonsense on purpose


@pytest.mark.parametrize(
    ("fault", "fields"),
    [
        (Fault(endpoint="patch", status=503), {"statusCode": 503, "error": "Service Unavailable"}),
        (Fault(endpoint="patch", status=404), {"message": "Cannot PATCH /api/ai-tasks/…"}),
        (Fault(endpoint="token", status=401), {"error": "invalid_client"}),
        (Fault(endpoint="pending", content='{"a": 1}'), {"a": 1}),
        (Fault(endpoint="pending", status=200, body="object"), {"hello": "world"}),
        (Fault(endpoint="model", status=429), rate_limit("requests", "rate_limit_exceeded")),
        (Fault(endpoint="model", status=429, code="insufficient_quota"), rate_limit(*["insufficient_quota"] * 2)),
    ],
)
def test_false_answers_have_the_shape_of_their_endpoint(fault: Fault, fields: dict[str, object]) -> None:
    """A status in JSON speaks as the remote would; given content is sent as it is."""
    answered = false_answer(fault)
    body = parsed(answered.body) if isinstance(answered.body, bytes) else None
    assert isinstance(body, dict)
    assert fields.items() <= body.items()
    assert (answered.status, answered.content_type) == (fault.status, "application/json")


@pytest.mark.parametrize(
    "how", [{"status": 500}, {"reset": True}, {"hang": True}, {"truncate": True}, {"drip_s": 1.0}, {"after": True}]
)
def test_only_a_harmless_fault_delivers(faults: Faults, how: dict[str, Any]) -> None:
    """Whatever may keep the true answer from the caller does not count as delivered."""
    assert not faults.add("patch", **how).delivers
    assert faults.add("patch", delay_s=1.0).delivers
