"""Reads a TOML file that users write: every mistake in it at once, with file, line, key and remedy."""

import re
import tomllib
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

#: a larger file is none that somebody has written
MAX_FILE_BYTES = 2**20

#: sentences for types of pydantic's errors, in the words of TOML
_WORDS = {
    "missing": "is missing: add it",
    "tuple_type": "must be an array",
    "list_type": "must be an array",
    "dict_type": "must be a table",
    "mapping_type": "must be a table",
    "model_type": "must be a table",
}
_KEY = re.compile(r"""("[^"]*"|'[^']*')|([^.\s"']+)""")

M = TypeVar("M", bound=BaseModel)


class TomlFile:
    """One file. ``what`` names its kind in messages; ``problems`` collects the mistakes, a line each."""

    def __init__(self, file: Path, what: str, problems: list[str]) -> None:
        self.file = file
        self._what = what
        self._problems = problems
        self._text = ""

    def document(self) -> dict[str, Any] | None:
        """What the file says; None when it cannot be read."""
        try:
            with self.file.open("rb") as opened:
                self._text = opened.read(MAX_FILE_BYTES).decode()
            return tomllib.loads(self._text)
        except OSError as error:
            self._problems.append(f"{self.file} cannot be read ({error.strerror}): mend the path or permissions")
        except UnicodeDecodeError:
            self._problems.append(f"{self.file} is not UTF-8: save it as UTF-8")
        except tomllib.TOMLDecodeError as error:
            self._problems.append(f"{self.file} is not valid TOML: {error}")
        return None

    def parsed(self, model: type[M]) -> M | None:
        """The file as this model; None when it has mistakes, which are added in the order of their lines."""
        document = self.document()
        if document is None:
            return None
        try:
            return model.model_validate(document)
        except ValidationError as error:
            found = []
            for part in error.errors(include_input=False, include_context=False, include_url=False):
                place = [str(each) for each in part["loc"]]
                sentence = self._sentence(part["type"], place, part["msg"])
                found.append((self._line(place or _first_word(sentence)), place, sentence))
            for _, place, sentence in sorted(found, key=lambda one: one[0]):
                self.mistake(place, sentence)
        return None

    def mistake(self, place: Sequence[str], sentence: str) -> None:
        """Add a mistake at a key; the sentence says what to do."""
        self._problems.append(f"{self.file}:{self._line(place or _first_word(sentence))}: {sentence}")

    def _sentence(self, kind: str, place: Sequence[str], message: str) -> str:
        message = message.removeprefix("Value error, ")
        if not place:
            return message
        key = ".".join(place)
        words = {"extra_forbidden": f"is no key of {self._what}: remove or correct it", **_WORDS}
        return f"{key} {words[kind]}" if kind in words else f"{key}: {message.replace('Input should be', 'must be')}"

    def _line(self, place: Sequence[str]) -> int:
        """The line on which a key stands, or the first of the table that it is in; 1 when neither is there."""
        best, found, table = 0, 1, list[str]()
        for number, line in enumerate(self._text.splitlines(), 1):
            stripped = line.strip()
            if stripped.startswith("["):
                table = _keys(stripped.lstrip("[").partition("]")[0])
                path = table
            elif "=" in stripped and not stripped.startswith("#"):
                path = [*table, *_keys(stripped.partition("=")[0])]
            else:
                continue
            common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(path, place, strict=False)))
            if common > best:
                best, found = common, number
        return found


def _keys(dotted: str) -> list[str]:
    """The parts of a key; those in quotation marks may have dots."""
    return [bare or quoted[1:-1] for quoted, bare in _KEY.findall(dotted)]


def _first_word(sentence: str) -> Sequence[str]:
    """The key that a sentence about the whole file begins with."""
    return [sentence.partition(":")[0].partition(" ")[0]]
