"""JSON pointers (RFC 6901): where a value is in a JSON document. ``""`` is the whole document."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field


def _pointer(text: str) -> str:
    if text and not text.startswith("/"):
        raise ValueError("must be a JSON pointer, such as /data/id")
    return text


#: a field of a profile
Pointer = Annotated[str, AfterValidator(_pointer), Field(json_schema_extra={"format": "json-pointer"})]


def keys(pointer: str) -> Sequence[str]:
    """The keys of a JSON pointer (§4)."""
    return tuple(part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:])


def resolve(document: Any, path: Sequence[str]) -> Any:
    """The value at these keys; None where there is none."""
    for key in path:
        if isinstance(document, Mapping):
            document = document.get(key)
        elif isinstance(document, Sequence) and not isinstance(document, str) and key.isdecimal():
            document = document[int(key)] if int(key) < len(document) else None
        else:
            return None
    return document
