"""Reads the JSON value in a model's answer and checks it against the schema of a prompt type. Pure."""

import json
import re
from typing import Any, NoReturn

from jsonschema import Draft202012Validator

from ai_task_processor.core import codec

#: places in an answer where a JSON value may begin that are tried
MAX_STARTS = 200
#: characters of a validator's sentence that are told to the model
MAX_REASON = 500
_START = re.compile(r"[\[{]")


class UnusableAnswer(ValueError):
    """``reason``: what is wrong with it, for the model; it may quote the answer and is never logged."""

    def __init__(self, reason: str) -> None:
        super().__init__("the answer does not fit the schema")
        self.reason = reason[:MAX_REASON]


def read_answer(text: str, validator: Draft202012Validator) -> tuple[Any, bool]:
    """The value in an answer, and whether text around it was removed. Raises ``UnusableAnswer``.

    Text around is removed only when exactly one JSON value in the answer fits the schema.
    """
    try:
        value: object = codec.loads(text.encode())
    except (ValueError, UnicodeEncodeError):
        fitting = [value for value in _values(text) if not any(validator.iter_errors(value))]
        if len(fitting) != 1:
            raise UnusableAnswer("it is not one JSON value") from None
        return fitting[0], True
    error = next(iter(validator.iter_errors(value)), None)
    if error is not None:
        raise UnusableAnswer(f"at {error.json_path}: {error.message}")
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
