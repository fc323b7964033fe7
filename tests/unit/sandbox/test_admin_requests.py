"""What is POSTed to the sandbox's administration: what is taken, and what is said about the rest."""

from collections.abc import Callable

import pytest

from ai_task_processor.sandbox import admin_requests
from ai_task_processor.sandbox.faults import Fault

FIELDS = ("text", "type")


def tasks_of(wanted: object) -> object:
    return admin_requests.tasks_of(wanted, FIELDS)


@pytest.mark.parametrize(
    ("read", "wanted", "problem"),
    [
        (admin_requests.fault_of, 5, "a fault is an object with endpoint and one of status, content"),
        (admin_requests.fault_of, {"endpoint": "moon", "status": 500}, "endpoint: input should be 'token', "),
        (admin_requests.fault_of, {"status": 500}, "endpoint: field required"),
        (admin_requests.fault_of, {"endpoint": "token", "colour": 1}, "colour is unknown: allowed are endpoint, "),
        (admin_requests.fault_of, {"endpoint": "token", "status": 500, "hits": 1}, "hits is unknown: "),
        (admin_requests.fault_of, {"endpoint": "token", "status": 600}, "status: input should be less than or equal"),
        (admin_requests.fault_of, {"endpoint": "token", "delay_s": -1}, "delay_s: input should be greater than or"),
        (admin_requests.fault_of, {"endpoint": "token", "hang": True, "probability": 2}, "probability: input should"),
        (admin_requests.fault_of, {"endpoint": "token", "hang": True, "times": 0}, "times: input should be greater"),
        (admin_requests.fault_of, {"endpoint": "token", "hang": True, "every": 0}, "every: input should be greater"),
        (admin_requests.fault_of, {"endpoint": "token", "status": 500, "body": "x"}, "body: input should be 'json', "),
        (admin_requests.fault_of, {"endpoint": "token", "after": True}, "this fault changes nothing: give it one of"),
        (admin_requests.habits_of, [], "habits are an object of how likely each is"),
        (admin_requests.habits_of, {"rude": 1}, "rude is unknown: allowed are prose, fence"),
        (admin_requests.habits_of, {"prose": 1.5}, "prose: input should be less than or equal to 1"),
        (tasks_of, {"count": 0}, "count: input should be greater than or equal to 1"),
        (tasks_of, {"count": "3"}, "count: input should be a valid integer"),
        (tasks_of, {"claims": 1, "x": 1}, "x is unknown: allowed are claims"),
        (tasks_of, [{"text": "a", "colour": 1}], "colour is unknown: tasks are added with "),
        (tasks_of, {}, 'tasks are added with {"count": N}, {"claims": N} or a list of objects with text, type'),
        (tasks_of, [1], "tasks are added with "),
    ],
)
def test_nonsense_says_what_is_allowed(read: Callable[[object], object], wanted: object, problem: str) -> None:
    with pytest.raises(ValueError, match=r".+") as caught:
        read(wanted)
    assert str(caught.value).startswith(problem)


def test_a_fault_is_taken_as_it_is_shown() -> None:
    """What is shown of a fault is what makes it again."""
    wanted = {"endpoint": "model", "status": 429, "headers": {"Retry-After": "7"}, "probability": 0.5, "every": 2}
    fault = admin_requests.fault_of(wanted)
    assert fault == Fault(**wanted)  # type: ignore[arg-type]  # fields of several types
    assert fault.document == {**wanted, "hits": 0}
