"""Persists what was learnt about models in the data directory, so that it is not learnt again by refused calls."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ai_task_processor.core import codec

_FILE = "models.json"
#: where the forms of chat requests are, by CHAT_API
FORMS_FILES: Mapping[str, str] = {"chat_completions": "chat-models.json", "responses": "responses-models.json"}
#: a larger file is not ours
_MOST_BYTES = 2**20


class ModelMemory:
    """An object by model name, in a file. Without the file everything is learnt again."""

    def __init__(self, directory: Path, file: str = _FILE) -> None:
        self._path = directory / file
        self._saved = b""

    def load(self) -> dict[str, Any]:
        """What an earlier process saved; empty when there is none, or it cannot be read."""
        try:
            if self._path.stat().st_size > _MOST_BYTES:
                return {}
            self._saved = self._path.read_bytes()
            learnt = codec.loads(self._saved)
        except (OSError, ValueError):
            return {}
        return learnt if isinstance(learnt, dict) else {}

    def save(self, learnt: dict[str, Any]) -> None:
        """Write it atomically when it has changed."""
        data = codec.line(learnt)
        if data == self._saved or not learnt:
            return
        fresh = self._path.with_suffix(".new")
        try:
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
            fresh.replace(self._path)
        except OSError:
            return  # the outbox reports a full disk
        self._saved = data
