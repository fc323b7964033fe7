"""What the ops port answers, asked without a socket: an action for who knows its token, nothing without one."""

import json
from collections.abc import Callable, Mapping

import pytest

from ai_task_processor.ops.endpoints import Action, Answered, MetricsServer
from ai_task_processor.ops.listener import Response

TOKEN = "a-token-of-the-tests"
PATHS = ["/health", "/ready", "/metrics", "/status"]


def ops(wake: Callable[[], None] | None = None, notes: list[str] | None = None) -> MetricsServer:
    """``wake``: what ``POST /wake`` calls; None: there is no token for it."""

    def woken(_query: Mapping[str, str]) -> Answered:
        assert wake is not None
        wake()
        return 202, {"status": "accepted"}

    return MetricsServer(
        unhealthy=lambda: None,
        unready=list,
        status=dict,
        exposition=lambda _: (b"", "text/plain"),
        notes=lambda: notes or [],
        actions={"/wake": Action(lambda: None if wake is None else TOKEN, woken)},
    )


def document(answer: Response) -> object:
    assert isinstance(answer.body, bytes)
    assert (answer.content_type, answer.headers["Cache-Control"]) == ("application/json", "no-store")
    return json.loads(answer.body)


GOOD = [f"{scheme} {TOKEN}" for scheme in ("Bearer", "bearer", "BEARER")]  # it has no case (RFC 9110 §11.1)
BAD = [
    "", "Bearer", "Bearer ", TOKEN, f"Bearer{TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x",
    f"Bearer {TOKEN.upper()}", f"Bearer {TOKEN}, Bearer {TOKEN}", f"Bearer {TOKEN[:-1]}\xe9",
    f"Bearer {TOKEN[:-1]}\udce9",  # aiohttp's word for a byte that is not UTF-8
    f"Bearer {'x' * 60_000}", f"Basic {TOKEN}",
]  # fmt: skip


@pytest.mark.parametrize("authorization", GOOD + BAD, ids=lambda value: ascii(value)[:30])
def test_the_token_wakes_and_nothing_else(authorization: str) -> None:
    """202 and one call; or 401 with the scheme and no hint (RFC 6750 §3), the same for every mistake, and no call."""
    calls: list[int] = []
    answer = ops(lambda: calls.append(1)).answer("POST", "/wake", authorization)
    expected = (
        (202, {"status": "accepted"}, None) if authorization in GOOD else (401, {"error": "unauthorized"}, "Bearer")
    )
    assert (answer.status, document(answer), answer.headers.get("WWW-Authenticate")) == expected
    assert len(calls) == (authorization in GOOD)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", ""])
def test_only_post_wakes(method: str) -> None:
    """405 and the one method that there is, token or not. Without a token: what any unknown path answers."""
    calls: list[int] = []
    for authorization in (f"Bearer {TOKEN}", ""):
        answer = ops(lambda: calls.append(1)).answer(method, "/wake", authorization)
        assert (answer.status, answer.headers["Allow"], calls) == (405, "POST", [])
    answer, unknown = (ops().answer(method, path, f"Bearer {TOKEN}") for path in ("/wake", "/nothing"))
    assert (answer.status, answer.body, answer.headers) == (404, unknown.body, unknown.headers)
    assert document(answer) == {"error": "not found", "paths": PATHS}


def test_with_a_token_the_path_is_listed_and_the_others_are_as_they_were() -> None:
    """It stands in the list of paths; a token opens nothing on the other paths, and none is needed there."""
    calls: list[int] = []
    server = ops(lambda: calls.append(1))
    assert document(server.answer("GET", "/nothing")) == {"error": "not found", "paths": [*PATHS, "/wake"]}
    for path in PATHS:
        assert server.answer("GET", path).status == 200
        assert server.answer("POST", path, f"Bearer {TOKEN}").status == 405
    for path in ("/wake/", "//wake", "/Wake", "/wake/x", "/%77ake", "http://x/wake"):
        assert server.answer("POST", path, f"Bearer {TOKEN}").status == 404
    assert calls == []


def test_the_page_is_rendered_once_for_all_who_ask() -> None:
    """GET and HEAD of ``/``, 405 otherwise; ``?refresh`` loads it again and again; without a page there is no path."""
    rendered: list[int] = []

    def page() -> tuple[bytes, dict[str, str]]:
        rendered.append(1)
        return b"<p>", {"Content-Type": "text/html", "X-Any": "1"}

    def asked(method: str, target: str) -> tuple[int, str | None, str | None]:
        answer = server.answer(method, target)
        return answer.status, answer.headers.get("X-Any"), answer.headers.get("Refresh")

    server = MetricsServer(
        unhealthy=lambda: None, unready=list, status=dict, exposition=lambda _: (b"", "text/plain"), page=page
    )
    assert [asked(method, "/") for method in ("GET", "HEAD", "GET")] == 3 * [(200, "1", None)]
    assert asked("GET", "/?refresh") == (200, "1", "5")
    assert asked("POST", "/") == (405, None, None)
    assert document(server.answer("GET", "/nothing")) == {"error": "not found", "paths": ["/", *PATHS]}
    assert len(rendered) == 1
    assert ops().answer("GET", "/").status == 404


@pytest.mark.parametrize(
    ("query", "status", "got"),
    [
        ("", 200, {}),
        ("reason=a%20b%0A&x=", 200, {"reason": "a b\n", "x": ""}),
        ("reason=%FF", 400, None),
        ("&".join("abcdefghi"), 400, None),
    ],
)
def test_an_action_gets_the_parameters_of_its_query(query: str, status: int, got: object) -> None:
    """Decoded; a query that cannot be read, or has too many, calls nothing. The token is looked up at each request."""
    calls: list[Mapping[str, str]] = []
    tokens = [TOKEN]

    def call(query: Mapping[str, str]) -> Answered:
        calls.append(query)
        return 200, {}

    server = MetricsServer(
        unhealthy=lambda: None,
        unready=list,
        status=dict,
        exposition=lambda _: (b"", ""),
        actions={"/pause": Action(lambda: tokens[-1], call)},
    )
    assert server.answer("POST", f"/pause?{query}", f"Bearer {TOKEN}").status == status
    assert calls == ([] if got is None else [got])
    tokens.append("another-token-of-the-tests")
    assert server.answer("POST", "/pause", f"Bearer {TOKEN}").status == 401
    assert server.answer("POST", "/pause", f"Bearer {tokens[-1]}").status == 200


def test_a_note_leaves_the_daemon_ready() -> None:
    """A sink that is off, for instance."""
    assert document(ops(notes=["sink_off: why"]).answer("GET", "/ready")) == {
        "ready": True,
        "reasons": [],
        "notes": ["sink_off: why"],
    }
