"""The log, fuzzed: whatever is said in whatever shape is one plain line, and no secret is in it."""

import base64
import io
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import httpx2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ai_task_processor.core.errors import Transient
from ai_task_processor.ops import logs
from ai_task_processor.ops.log_context import task_context

#: with every character that a URL, a form, JSON or base64 writes in another way
SECRET = "p@ss/w:rd+~!*'()$&=;,%\"\\ ?#[]x"
#: a value stands in one of them at least when it is hidden badly
CHARACTERS = st.characters(codec=None)
SURROUNDINGS = st.text(CHARACTERS, max_size=8)


def written(say: Callable[[], object]) -> list[dict[str, Any]]:
    """The lines that this writes: plain text, each of them strict JSON. Logging is as before afterwards."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logs.configure(level="DEBUG", format="json", secrets=[SECRET], stream=stream)
    try:
        say()
    finally:
        logs.reset()
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in logs.QUIET:
            logging.getLogger(name).setLevel(logging.NOTSET)
    *found, rest = stream.getvalue().split("\n")
    assert rest == ""
    assert all(line.isascii() and line.isprintable() for line in found)
    return [json.loads(line, parse_constant=pytest.fail) for line in found]


def strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (text for pair in value.items() for part in pair for text in strings(part))
    elif isinstance(value, list):
        yield from (text for item in value for text in strings(item))
    else:
        yield str(value)


HASHABLE = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(CHARACTERS, max_size=30) | st.binary(max_size=20)
    | st.dates() | st.datetimes() | st.complex_numbers() | st.decimals(allow_nan=False) | st.uuids()
)  # fmt: skip
ERRORS = st.builds(ValueError, st.text(CHARACTERS, max_size=9)) | st.builds(Transient, st.text(CHARACTERS, max_size=9))
KEYS = st.text(CHARACTERS, max_size=8) | st.integers() | st.none()
VALUES = st.recursive(
    HASHABLE | ERRORS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.frozensets(HASHABLE, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=3)
    ),
    max_leaves=10,
)
NAMES = st.text(CHARACTERS, max_size=8) | st.sampled_from(["exc_info", "stack_info", "level", "timestamp", "logger"])
FIELDS = st.dictionaries(NAMES.filter(lambda name: name not in ("event", "self")), VALUES, max_size=4)


@given(event=st.text(CHARACTERS, max_size=20), fields=FIELDS)
def test_any_value_is_one_line_of_json(event: str, fields: dict[str, Any]) -> None:
    """Time, level, logger and event are there, and are true, whatever is said and however it is nested."""
    (line,) = written(lambda: logs.get_logger("ours").warning(event, **fields))
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    assert (line["level"], line["logger"]) == ("warning", "ours")


@given(message=st.text(CHARACTERS, max_size=20), arguments=st.lists(VALUES, max_size=3))
@example(message="%(a)s", arguments=[{}])
def test_any_call_of_another_library_is_one_line(message: str, arguments: list[Any]) -> None:
    """Arguments that do not fit their message are its author's mistake and nobody else's trouble."""
    (line,) = written(lambda: logging.getLogger("foreign").error(message, *arguments))
    assert line["logger"] == "foreign"


#: what encodes a secret on its way into a text: our own code, clients, browsers (which leave some characters alone)
NOTATIONS: Mapping[str, Callable[[str], str]] = {
    "plain": str,
    "path": lambda text: quote(text, safe=""),
    "path with slashes": quote,
    "path in lower case": lambda text: quote(text, safe="").lower(),
    "form": quote_plus,
    "form of the standard library": lambda text: urlencode({"": text})[1:],
    "encodeURIComponent": lambda text: quote(text, safe="!'()*"),
    "encodeURI": lambda text: quote(text, safe="!'()*;/?:@&=+$,#"),
    "query of the HTTP client": lambda text: str(httpx2.URL("https://h/", params={"k": text})).partition("=")[2],
    "JSON": lambda text: json.dumps(text)[1:-1],
    "Python": lambda text: repr(text)[1:-1],
    "Basic": lambda text: base64.b64encode(f"client:{text}".encode()).decode(),
    "Basic, form-encoded": lambda text: base64.b64encode(f"client:{quote_plus(text)}".encode()).decode(),
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
}


def shapes(text: str) -> st.SearchStrategy[object]:
    """The text inside of something, as a value, a key, bytes, or an exception's message."""
    leaf = st.sampled_from(
        [text, text.encode("utf-8", "surrogatepass"), Transient(text), ValueError(text), {text: text}]
    )
    return st.recursive(
        leaf, lambda inner: st.lists(inner, min_size=1, max_size=2) | st.dictionaries(st.just(text), inner, min_size=1)
    )


def in_context(text: str) -> None:
    with task_context(text):
        FOREIGN.error("said")


OURS, FOREIGN = logs.get_logger("ours"), logging.getLogger("foreign")
#: ways to say a text and a value with it
WAYS: Mapping[str, Callable[[str, object], object]] = {
    "field": lambda text, value: OURS.warning("said", value=value),
    "event": lambda text, value: OURS.warning(text, value=value),
    "argument": lambda text, value: FOREIGN.error("said %s", value),
    "repr": lambda text, value: FOREIGN.error("said %r", value),
    "context": lambda text, value: in_context(text),
}


@given(st.sampled_from(list(NOTATIONS)), st.sampled_from(list(WAYS)), SURROUNDINGS, SURROUNDINGS, st.data())
def test_a_secret_is_masked_in_any_notation_and_nesting(
    notation: str, way: str, before: str, after: str, data: st.DataObject
) -> None:
    """Ten characters in a row of a secret, in the notation it was written in, appear nowhere in the line."""
    encoded = NOTATIONS[notation](SECRET)
    text = before + encoded + after
    value = data.draw(shapes(text))
    (line,) = written(lambda: WAYS[way](text, value))
    seen = "\n".join(strings(line))
    # Alignment makes the first and last characters of base64 stand for the remotes too.
    core = encoded[16:-4] if "ase64" in notation or "Basic" in notation else encoded
    assert not [start for start in range(len(core) - 9) if core[start : start + 10] in seen]
