"""A webhook's signature and body, as Standard Webhooks has them."""

import json

from ai_task_processor.sinks.webhook import body, signature
from ai_task_processor.testing.store import record


def test_the_signature_is_that_of_the_specification() -> None:
    """The example of its reference implementations."""
    secret, text = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    for each in (secret, f"whsec_{secret}"):
        assert signature(each, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, text) == expected


def test_a_body_says_what_happened_when() -> None:
    """The same for every delivery of a result."""
    assert json.loads(body(record("a", body=b'{"text":"x"}', finished_at=1_800_000_000.5))) == {
        "type": "task.succeeded",
        "timestamp": "2027-01-15T08:00:00.500000+00:00",
        "data": {"task_id": "a", "type": "text_embedding", "source": "testing", "result": {"text": "x"}},
    }
