"""JSON Schemas of answers, and the JSON value in a model's answer. Pure."""

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from jsonschema import Draft202012Validator, SchemaError

from ai_task_processor.core import codec

#: places in an answer where a JSON value may begin that are tried
MAX_STARTS = 200
#: characters of a validator's sentence that are sent to the model
MAX_REASON = 500
_START = re.compile(r"[\[{]")


class Schema:
    """A checked JSON Schema (2020-12). Raises ``ValueError`` when it is none."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as error:
            raise ValueError(f"{error.json_path}: {error.message[:MAX_REASON]}") from None
        self._validator = Draft202012Validator(schema)

    def problem(self, value: object) -> str | None:
        """Why a value does not fit, with the place in it; None when it does. It may quote the value."""
        error = next(iter(self._validator.iter_errors(value)), None)
        return None if error is None else f"at {error.json_path}: {error.message}"


class UnusableAnswer(ValueError):
    """``reason``: what is wrong with it, for the model; it may quote the answer and is never logged."""

    def __init__(self, reason: str) -> None:
        super().__init__("the answer does not fit the schema")
        self.reason = reason[:MAX_REASON]


def read_answer(text: str, schema: Schema) -> tuple[Any, bool]:
    """The value in an answer, and whether text around it was removed. Raises ``UnusableAnswer``.

    Text around is removed only when exactly one JSON value in the answer fits the schema.
    """
    try:
        value: object = codec.loads(text.encode())
    except (ValueError, UnicodeEncodeError):
        fitting = [value for value in _values(text) if schema.problem(value) is None]
        if len(fitting) != 1:
            raise UnusableAnswer("it is not one JSON value") from None
        return fitting[0], True
    if (problem := schema.problem(value)) is not None:
        raise UnusableAnswer(problem)
    return value, False


def _values(text: str) -> list[Any]:
    """The JSON arrays and objects in a text, without those inside others."""
    decoder, values, at = json.JSONDecoder(parse_constant=_no_json), [], 0
    for _ in range(MAX_STARTS):
        start = _START.search(text, at)
        if start is None:
            break
        try:
            value, at = decoder.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            at = start.end()
        else:
            values.append(value)
    return values


def _no_json(constant: str) -> NoReturn:
    raise ValueError(constant)
