"""A remote's own message about a refusal, for logs and dead letters, without content of the task or the report.

Validators often quote what they refuse. Parts of the message that occur in the report, decimal numbers, and quotations
that are not names of fields are replaced; the usual words of such messages stay.
"""

import re
from collections.abc import Callable, Iterator
from html import unescape
from typing import Final

from ai_task_processor.core import codec

LONGEST: Final = 500
#: characters of a message that are read
_READ: Final = 4000
_LEFT_OUT: Final = "…"
#: texts of this length or more are replaced inside a word, too
_GLUED: Final = 4
#: the members that may have the message, the most specific first; ``msg``: of FastAPI's list of mistakes
_MEMBERS: Final = ("message", "detail", "msg", "error", "errors", "title")
#: names of members of a task, which a message may quote
_NAMES: Final = (
    "_id id state status result error code message type content text model callbackRoute callbackParams documentId "
    "targetId field embedding dimensions usage createdAt updatedAt limit body"
)
#: the usual words in messages of validators, databases and NestJS
_USUAL: Final = (
    "a above after all allowed already an and any api are array at bad be because been before below body "
    "boolean by callback can cannot cast characters code conflict constraint constraints conforming content could "
    "data date defined denied did does document duplicate each either empty entity equal error errors exceeded exist "
    "exists expected failed failure field fields following for forbidden format found from gateway got greater has "
    "have id in index input integer internal invalid is it item items json key large least length less limit long "
    "longer malformed max maximum message min minimum missing more most must no not null number numbers object of on "
    "one only or param parameter path payload pending processed processing properties property received refused "
    "request required result route schema server short shorter should size state status string succeeded task text "
    "than that the this to token too type unauthorized undefined unexpected unique unknown unprocessable update "
    "updated url valid validation value values was were when which with"
)
_FIELDS: Final = frozenset(_NAMES.split())
_WORDS: Final = frozenset(_USUAL.split())
#: of a web page, and the message of an error of S3
_TITLE: Final = re.compile(r"<(?:title|message)[^>]*>([^<]*)", re.IGNORECASE)
_QUOTED: Final = re.compile(r"\"[^\"]*(?:\"|\Z)|“[^”]*(?:”|\Z)|`[^`]*(?:`|\Z)|(?<!\w)'[^']*(?:'(?!\w)|\Z)")
_NESTED: Final = re.compile(r"\{[^{}]*(?:\}|\Z)|\[[^\[\]]*[^\[\]\d][^\[\]]*(?:\]|\Z)")
#: an exponent without a point only as a whole word: an ObjectId may contain ``0e9``
_DECIMAL: Final = re.compile(r"-?\d+\.\d+(?:[eE][+-]?\d+)?|(?<!\w)-?\d+[eE][+-]?\d+(?!\w)")
_WORD: Final = re.compile(r"\w+")
_PATH: Final = re.compile(r"[\w$]+(?:\.[\w$]+)*")
#: a name in the code of an API: snake_case or camelCase
_IDENTIFIER: Final = re.compile(r"[a-z]+(?:_[a-z0-9]+)+|[a-z]+(?:[A-Z][a-z0-9]*)+")


def remark(body: bytes, sent: bytes, mask: Callable[[str], str]) -> str:
    """What a refusing answer says, cleaned and shortened; empty when it says nothing.

    Of JSON the ``message``, the ``error``, or the ``detail`` or ``title`` of RFC 9457; of a page or XML the title or
    message; otherwise the beginning of the text. ``sent``: the report that was refused, as JSON. ``mask``: removes
    secrets.
    """
    try:
        message = _message(codec.loads(body))
    except ValueError:
        message = _beginning(body[: 4 * _READ].decode("utf-8", "ignore"))
    text = "".join(char if char.isprintable() else " " for char in mask(message[:_READ]))
    text = _without(" ".join(text.split()), _Content(sent))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + _LEFT_OUT


def _message(answer: object) -> str:
    """Nest has ``message`` (a text or a list of texts) and the status's name as ``error``; others nest them."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, list):
        return "; ".join(part for part in map(_message, answer[:20]) if part)
    if not isinstance(answer, dict):
        return ""
    return next((text for name in _MEMBERS if (text := _message(answer.get(name)))), "")


def _beginning(text: str) -> str:
    text = text.removeprefix("\ufeff").lstrip()
    if text.startswith("<"):
        title = _TITLE.search(text)
        return "" if title is None else unescape(title[1])
    return "" if "\0" in text else text


class _Content:
    """The texts of a report."""

    def __init__(self, sent: bytes) -> None:
        try:
            report = codec.loads(sent)
        except ValueError:
            report = None
        if isinstance(report, dict):
            report.pop("state", None)  # a word of the API
        self.leaves = {leaf for leaf in _leaves(report) if len(leaf) > 1}
        self._text = "\n".join(self.leaves).lower()
        self._words = set(_WORD.findall(self._text))

    def holds(self, word: str) -> bool:
        """Does ``word`` occur in them? A short ASCII word only as a whole word."""
        word = word.lower()
        return word in self._words if word.isascii() and len(word) < 4 else word in self._text


def _leaves(value: object) -> Iterator[str]:
    """Every text and every whole number in a report, names of members included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, int) and not isinstance(value, bool):
        yield str(value)
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from _leaves(item)


def _without(text: str, content: _Content) -> str:
    for leaf in sorted(content.leaves, key=len, reverse=True):
        if not (leaf.isascii() and (len(leaf) < _GLUED or leaf.lower() in _WORDS or leaf in _FIELDS)):
            text = text.replace(leaf, _LEFT_OUT)
    text = _QUOTED.sub(lambda found: found[0] if _is_name(found[0][1:-1], content) else _LEFT_OUT, text)
    text = _NESTED.sub(_LEFT_OUT, text)
    text = _DECIMAL.sub(_LEFT_OUT, text)
    return _WORD.sub(lambda found: found[0] if _is_harmless(found[0], content) else _LEFT_OUT, text)


def _is_name(text: str, content: _Content) -> bool:
    if _PATH.fullmatch(text) and text.partition(".")[0] in _FIELDS:
        return True  # its other parts are checked word by word
    return _IDENTIFIER.fullmatch(text) is not None and not content.holds(text)


def _is_harmless(word: str, content: _Content) -> bool:
    return word.lower() in _WORDS or word in _FIELDS or not content.holds(word)
