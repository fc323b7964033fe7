"""The upstream's tasks: what is pending, what a PATCH does to them, and what the model makes of their texts."""

import hashlib
import json
import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

DIMENSIONS = 256
#: a text with this word is refused by the model
FORBIDDEN = "forbidden"

Sort = Literal["text", "plain", "refused-input", "empty", "refused-result", "unknown"]
#: what must have become of a task of this sort in the end
Fate = Literal["succeeded", "failed", "dead letter", "untouched"]
FATES: dict[Sort, Fate] = {
    "text": "succeeded",
    "plain": "succeeded",
    "refused-input": "failed",
    "empty": "failed",
    "refused-result": "dead letter",
    "unknown": "untouched",
}


@dataclass(slots=True)
class Entry:
    """One task. ``told``: its outcome was acknowledged, or refused for good."""

    sort: Sort
    text: str
    record: bytes
    state: str = "pending"
    told: bool = False


def vector(text: str) -> bytes:
    """The model's answer to a text: float32, little-endian."""
    words = struct.unpack(f"<{DIMENSIONS}I", hashlib.shake_256(text.encode()).digest(4 * DIMENSIONS))
    return struct.pack(f"<{DIMENSIONS}f", *(word / 2**31 - 1.0 for word in words))


def owner(text: str) -> str:
    """The task a text belongs to: its id is the first word, so that every paid call is known by its task."""
    return text.partition(" ")[0]


class Book:
    """Tasks by id. Keys that a DTO does not know are refused, as Nest does."""

    def __init__(self, rng: random.Random) -> None:
        self.entries: dict[str, Entry] = {}
        self._rng = rng

    @property
    def fates(self) -> dict[str, Fate]:
        return {task_id: FATES[entry.sort] for task_id, entry in self.entries.items()}

    @property
    def unfinished(self) -> list[str]:
        """Tasks whose outcome is still expected."""
        return [id_ for id_, entry in self.entries.items() if not entry.told and FATES[entry.sort] != "untouched"]

    def add(self, count: int, sort: Sort = "text", model: str | None = None) -> None:
        for _ in range(count):
            task_id = f"{len(self.entries):06x}{self._rng.getrandbits(72):018x}"
            text = "" if sort == "empty" else f"{task_id} {FORBIDDEN if sort == 'refused-input' else 'some words'}"
            content: object = text if sort == "plain" else {"text": text, **({"model": model} if model else {})}
            record = {
                "_id": task_id,
                "type": {"plain": "text-embedding", "unknown": "image_caption"}.get(sort, "text_embedding"),
                "state": "pending",
                "content": content,
                "callbackRoute": "verification_update_embedding",
                "callbackParams": {"targetId": f"{self._rng.getrandbits(96):024x}", "field": "embedding"},
                "createdAt": "2026-01-01T00:00:00.000Z",
                "updatedAt": None,
            }
            self.entries[task_id] = Entry(sort, text, json.dumps(record).encode())

    def pending(self, limit: int | None) -> bytes:
        """The list as it is now, unsorted."""
        records = [entry.record for entry in self.entries.values() if entry.state == "pending"]
        self._rng.shuffle(records)
        return b"[" + b",".join(records[:limit]) + b"]"

    def apply(self, task_id: str, body: bytes, *, callback: bool = True) -> tuple[int, dict[str, Any]]:
        """The status of a PATCH, and what it did, as an ``Event`` has it.

        State first, callback second: what a 5xx leaves behind differs from what it says.
        """
        entry, patch = self.entries.get(task_id), json.loads(body)
        if entry is None:
            return 404, {}
        if patch.keys() - {"state", "result"}:
            return 400, {}
        entry.state = patch["state"]
        if entry.sort == "refused-result":
            entry.told = True
            return 400, {"state": entry.state, "refused": entry.state == "succeeded"}
        ran = callback and patch["state"] == "succeeded" and "result" in patch
        correct = not ran or self._packed(patch["result"]) == vector(entry.text)
        return 200, {"state": entry.state, "callback": ran, "correct": correct}

    def acknowledge(self, task_id: str) -> None:
        """The daemon was told that its result arrived."""
        self.entries[task_id].told = True

    def _packed(self, result: object) -> bytes | None:
        if not isinstance(result, Sequence) or len(result) != DIMENSIONS:
            return None
        return struct.pack(f"<{DIMENSIONS}f", *result)
