"""JSON pointers."""

import pytest
from pydantic import TypeAdapter, ValidationError

from ai_task_processor.core.pointer import Pointer, keys, resolve

#: RFC 6901, section 5
DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "m~n": 8, "n": {"0": None}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", DOCUMENT), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/m~0n", 8),
        ("/foo/2", None), ("/foo/-", None), ("/foo/0/0", None), ("/n/0/x", None), ("/x", None),
    ],
)  # fmt: skip
def test_a_pointer_leads_to_a_value_or_to_none(text: str, value: object) -> None:
    assert resolve(DOCUMENT, keys(text)) == value


@pytest.mark.parametrize("text", ["foo", "#/foo", None, 7])
def test_what_is_no_pointer_is_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Pointer).validate_python(text)
