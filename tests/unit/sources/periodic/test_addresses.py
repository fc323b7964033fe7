"""E-mail addresses: who is asked for, what each answer means, and how often it is asked."""

from typing import Any

import httpx2
import pytest

from ai_task_processor.core.errors import (
    CircuitOpen,
    InvalidAnswer,
    Misconfigured,
    RemoteError,
    Transient,
    Unauthorized,
)
from ai_task_processor.core.plugins import find
from ai_task_processor.sources.periodic.addresses import KEPT_S
from tests.helpers import services
from tests.mock_http import mock_client

URL = "https://api.test"
USER = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
FOUND = {"email": "a@b.example", "name": "A"}


class Room:
    """The look-up of the built-in profile against an API that answers this."""

    def __init__(self, clock: Any, status: int = 200, json: object = FOUND, **more: Any) -> None:
        self.answer: dict[str, Any] = {"status_code": status, **(more or {"json": json})}
        self.asked: list[httpx2.Request] = []
        source = find("sources", "due-soon").load()
        environ = {"API_BASE_URL": URL, "API_SECRET": "s3cret-of-the-api"}
        self.services = services(environ, source, memory=object(), clock=clock)
        source.build(self.services)
        (self.look_up,) = self.services.lookups.values()
        self.look_up._api._client = mock_client(self._answer, URL)  # type: ignore[attr-defined]

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        self.asked.append(request)
        return httpx2.Response(**self.answer)


async def test_an_address_is_asked_for_once(clock: Any) -> None:
    """With the secret; again after a while, because it may have changed."""
    room = Room(clock)
    for _ in range(3):
        assert await room.look_up({"user_id": USER, "title": "x"}) == "a@b.example"
    (request,) = room.asked
    assert request.url.path == f"/api/internal/users/{USER}/email"
    assert request.headers["x-internal-secret"] == "s3cret-of-the-api"
    clock.advance(KEPT_S)
    await room.look_up({"user_id": USER})
    assert len(room.asked) == 2


@pytest.mark.parametrize("user", [None, "", 7, "7", "../../admin", USER + "/..", USER[:-1], f"{USER}\n", "%2e%2e"])
async def test_what_is_no_uuid_is_never_asked_for(clock: Any, user: object) -> None:
    """The API answers 500 and resets the connection."""
    room = Room(clock)
    assert await room.look_up({"user_id": user}) is None
    assert room.asked == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": 404, "json": {"detail": "User not found"}}, None),
        ({"status": 404, "text": "<html>"}, Misconfigured),
        ({"status": 404, "json": {"error": "no route"}}, Misconfigured),
        ({"status": 403, "json": {"detail": "Forbidden"}}, Unauthorized),
        ({"status": 500, "text": "Internal Server Error"}, Transient),
        ({"status": 200, "text": "<html>"}, InvalidAnswer),
        ({"status": 200, "json": {"email": None}}, InvalidAnswer),
        ({"status": 200, "json": {"email": ""}}, InvalidAnswer),
    ],
)
async def test_no_address_is_either_nobody_or_an_error(
    clock: Any, answer: dict[str, Any], error: type[RemoteError] | None
) -> None:
    room = Room(clock, **answer)
    if error is None:
        assert await room.look_up({"user_id": USER}) is None
        return
    with pytest.raises(error) as caught:
        await room.look_up({"user_id": USER})
    assert type(caught.value) is error
    assert ("correct API_SECRET" in str(caught.value)) == (error is Unauthorized)


async def test_look_ups_have_a_circuit_of_their_own(clock: Any) -> None:
    """That the API is asked for the list does not depend on it."""
    room = Room(clock, 403, {"detail": "Forbidden"})
    for kind in (Unauthorized, CircuitOpen):
        with pytest.raises(kind):
            await room.look_up({"user_id": USER})
    assert len(room.asked) == 1
    assert room.services.gate("addresses").wait_s() > 0
    assert room.services.gate("api_poll").wait_s() == 0
