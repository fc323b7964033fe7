"""What becomes of an answer: nothing was handled, or it was, and the answer does not say so."""

import asyncio
import base64
import json
import struct
from dataclasses import replace
from typing import Any

from tests.chaos import wire
from tests.chaos.wire import Answer

_NAN = struct.pack("<f", float("nan"))


_INTERNAL = Answer.error(500, "Internal server error")
_INSTEAD = {
    "500": _INTERNAL,
    "502-page": Answer.page(502),
    "503-retry-after": Answer.error(503, "Busy", **{"Retry-After": "1"}),
    "429": Answer.error(429, "Slow down", **{"Retry-After": "1"}),
}


async def instead(fault: str, writer: asyncio.StreamWriter) -> int:
    """Answer without having handled anything; the status that was told, 0 for none."""
    match fault:
        case "close":
            writer.close()
        case "reset":
            wire.reset(writer)
        case "drip":
            await wire.drip(writer)
        case _:
            await wire.write(writer, _INSTEAD[fault].encoded())
            return _INSTEAD[fault].status
    return 0


async def deliver(fault: str, answer: Answer, writer: asyncio.StreamWriter) -> int:
    """Write the answer of something that was done, or what becomes of it on the way; the status that was told."""
    match fault:
        case "half":
            data = answer.encoded()
            await wire.write(writer, data[: len(data) - 1 - len(answer.body) // 2])
            return await instead("close", writer)
        case "reset-after" | "callback-lost-reset":
            return await instead("reset", writer)
        case "hang-after":
            return await instead("drip", writer)
        case "500-after" | "callback-lost":
            answer = _INTERNAL
        case "page":
            answer = Answer.page(200)
        case "truncated":
            answer = replace(answer, body=answer.body[: len(answer.body) // 2])
        case "foreign-id":
            answer = Answer.of(200, {"_id": "f" * 24, "state": json.loads(answer.body)["state"]})
        case "too-few" | "wrong-index" | "nan" | "short-vector":
            answer = _spoiled(answer, fault)
    return answer.status if await wire.write(writer, answer.encoded()) else 0


def _spoiled(answer: Answer, fault: str) -> Answer:
    """A model's answer that is well formed and still of no use."""
    value: dict[str, Any] = json.loads(answer.body)
    data = value["data"]
    raw = base64.b64decode(data[0]["embedding"])
    match fault:
        case "too-few":
            data.pop()
        case "wrong-index":
            data[-1]["index"] = len(data)
        case "nan":
            data[0]["embedding"] = base64.b64encode(_NAN + raw[4:]).decode()
        case "short-vector":
            data[0]["embedding"] = base64.b64encode(raw[:-4]).decode()
    return Answer.of(200, value)
