"""JSON answers of the four remotes, and the error shape of each."""

from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from types import MappingProxyType

import orjson
from aiohttp import web

Response = web.Response

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


def parsed(body: bytes) -> object:
    """The JSON value of a body; raises ``ValueError``."""
    return orjson.loads(body)


def rendered(value: object) -> bytes:
    """JSON; numpy float32 arrays with the shortest digits that give the same float32 back."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)


def sent(
    body: bytes | AsyncIterator[bytes],
    status: int = 200,
    headers: Mapping[str, str] = NO_HEADERS,
    content_type: str = "application/json",
) -> Response:
    """These bytes as they are. ``headers`` replace the usual ones of the same name."""
    response = Response(status=status, body=body, content_type=content_type)
    response.headers.update(headers)
    return response


def answer(value: object, status: int = 200, headers: Mapping[str, str] = NO_HEADERS) -> Response:
    return sent(rendered(value), status, headers)


def phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"


def nest_error(status: int, message: object, headers: Mapping[str, str] = NO_HEADERS) -> Response:
    """NestJS's built-in exception filter. The validation pipe's message is a list."""
    return answer({"statusCode": status, "message": message, "error": phrase(status)}, status, headers)


def oauth_error(status: int, error: str, description: str, headers: Mapping[str, str] = NO_HEADERS) -> Response:
    """RFC 6749, section 5.2."""
    fields = {"error": error, "error_description": description}
    return answer(fields, status, {"Cache-Control": "no-store", **headers})


def openai_error(
    status: int,
    message: str,
    *,
    kind: str = "invalid_request_error",
    param: str | None = None,
    code: str | None = None,
    headers: Mapping[str, str] = NO_HEADERS,
) -> Response:
    """OpenAI's published error object; ``kind`` is its ``type``."""
    fields = {"message": message, "type": kind, "param": param, "code": code}
    return answer({"error": fields}, status, headers)
