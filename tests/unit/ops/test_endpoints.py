"""``POST /wake`` for who knows the token, and nothing at all without one."""

import json
from collections.abc import Mapping

import pytest

from ai_task_processor.ops.endpoints import MetricsServer, WakeUp
from ai_task_processor.ops.server import Request, Response

TOKEN = "a-token-of-the-tests"


class Ops:
    """An ops server that is asked without a socket; ``calls`` counts what reached whoever is to be woken."""

    def __init__(self, token: str | None = TOKEN) -> None:
        self.calls = 0
        self._server = MetricsServer(
            unhealthy=lambda: None,
            unready=list,
            status=dict,
            exposition=lambda: (b"", "text/plain"),
            wake_up=None if token is None else WakeUp(token, self._called),
        )

    def _called(self) -> None:
        self.calls += 1

    async def ask(
        self, method: str, path: str, authorization: str | None = f"Bearer {TOKEN}", body: bytes = b""
    ) -> Response:
        headers: Mapping[str, str] = {} if authorization is None else {"authorization": authorization}
        return await self._server._handle(Request(method, path, {}, headers, body, path))


def document(answer: Response) -> object:
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


@pytest.mark.parametrize("body", [b"", b"{}", b'{"_id": "665f0c"}', b"\xff" * 60_000])
async def test_the_token_wakes(body: bytes) -> None:
    """202 with a tiny document, and one call, whatever the body holds."""
    ops = Ops()
    answer = await ops.ask("POST", "/wake", body=body)
    assert (answer.status, document(answer)) == (202, {"status": "accepted"})
    assert ops.calls == 1


async def test_the_scheme_is_written_as_people_like() -> None:
    """A scheme has no case (RFC 9110 §11.1)."""
    ops = Ops()
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert (await ops.ask("POST", "/wake", f"{scheme} {TOKEN}")).status == 202


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Bearer{TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN}, Bearer {TOKEN}",
        f"Bearer {TOKEN[:-1]}\xe9",
        f"Bearer {'x' * 60_000}",
        f"Basic {TOKEN}",
        f"Token {TOKEN}",
    ],
    ids=lambda text: repr(text)[:30],
)
async def test_nothing_else_wakes(authorization: str | None) -> None:
    """401 with the scheme and no hint (RFC 6750 §3), the same for every mistake, and no call."""
    ops = Ops()
    answer = await ops.ask("POST", "/wake", authorization)
    assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert document(answer) == {"error": "unauthorized"}
    assert ops.calls == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", ""])
async def test_only_post_wakes(method: str) -> None:
    """405 and the one method that there is, token or not."""
    ops = Ops()
    for authorization in (f"Bearer {TOKEN}", None):
        answer = await ops.ask(method, "/wake", authorization)
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert ops.calls == 0


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT"])
async def test_without_a_token_there_is_no_such_path(method: str) -> None:
    """404, byte for byte what any unknown path answers, and no word of ``/wake`` anywhere."""
    ops = Ops(token=None)
    answer, unknown = await ops.ask(method, "/wake"), await ops.ask(method, "/nothing")
    assert answer == unknown
    assert answer.status == 404
    assert b"wake" not in bytes(answer.body)  # type: ignore[arg-type]  # the ops server has no other bodies


async def test_with_a_token_the_path_is_listed_and_the_others_are_as_they_were() -> None:
    """It stands in the list of paths; a token opens nothing on the other paths, and none is needed there."""
    ops = Ops()
    assert document(await ops.ask("GET", "/nothing")) == {
        "error": "not found",
        "paths": ["/health", "/ready", "/metrics", "/status", "/wake"],
    }
    for path in ("/health", "/ready", "/metrics", "/status"):
        assert (await ops.ask("GET", path, None)).status == 200
        assert (await ops.ask("POST", path)).status == 405
    for path in ("/wake/", "//wake", "/Wake", "/wake/x", "/%77ake"):
        assert (await ops.ask("POST", path)).status == 404
    assert ops.calls == 0


def test_the_token_is_in_no_repr() -> None:
    """What is logged by mistake does not give it away."""
    assert TOKEN not in repr(WakeUp(TOKEN, print))
