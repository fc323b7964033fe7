"""Reads the environment, ``.env`` and secret files as text. Error messages never contain a value.

The parser of ``.env`` is the only library imported here, because a health check uses this module every 15 seconds.
"""

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from dotenv.parser import Binding, parse_stream

_QUOTED = re.compile(r"""(["']).*\1|[\u201c\u2018\u201e].*[\u201d\u2019\u201c]""", re.DOTALL)
_IN_QUOTES = "in quotation marks, which arrived as part of it: remove them"
#: Invisible characters, pasted from a web page, a chat, an editor. Line breaks and tabs are allowed, for JSON.
_INVISIBLE = re.compile(r"[^\S \t\r\n]|[\x00-\x08\x0e-\x1f\x7f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
#: Not a ``#`` inside JSON, which ends in a brace.
_COMMENT = re.compile(r"(?:^#\s|\s#)[^}]*$")


class Dotenv(NamedTuple):
    """A parsed ``.env`` file. ``warnings``: by variable, for values that Docker Compose would read differently.

    ``lines``: the number of the line that sets each variable (the last one, when there are several).
    """

    texts: Mapping[str, str] = {}
    problems: Sequence[str] = ()
    warnings: Mapping[str, str] = {}
    lines: Mapping[str, int] = {}


def read_dotenv(path: Path) -> Dotenv:
    """A missing file sets nothing. ``$`` is not expanded: a secret must not depend on the rest of the environment.

    Compose expands it, except in single quotes
    (https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/).
    """
    try:
        bindings = list(parse_stream(io.StringIO(path.read_text("utf-8"))))
    except FileNotFoundError:
        return Dotenv()
    except OSError as error:
        return Dotenv(problems=[f"{path} cannot be read ({error.strerror}): mend or remove it"])
    except UnicodeDecodeError:
        return Dotenv(problems=[f"{path} is not UTF-8: save it as UTF-8"])
    return Dotenv(
        {each.key: each.value for each in bindings if each.key and each.value is not None},
        [f"{path}, line {each.original.line} is not readable: write NAME=value" for each in bindings if each.error],
        {
            each.key: f"{each.key} has a $ which Docker Compose would expand and this process does not: "
            "put the value in single quotes there"
            for each in bindings
            if each.key and "$" in (each.value or "") and not _in_single_quotes(each)
        },
        {each.key: _line(each) for each in bindings if each.key and each.value is not None},
    )


def _line(binding: Binding) -> int:
    """The line of the name: the parser counts the empty lines before it in."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def _in_single_quotes(binding: Binding) -> bool:
    return binding.original.string.partition("=")[2].lstrip().startswith("'")


def filled(texts: Mapping[str, str]) -> dict[str, str]:
    """Strip surrounding white space (also the ``\\r`` of a file from Windows), and leave out empty values."""
    return {name: stripped for name, text in texts.items() if (stripped := text.strip())}


def remarks(text: str) -> Sequence[str]:
    """Problems of a value that contains unintended characters: sentences to follow the variable's name.

    ``docker run --env-file`` and Kubernetes pass quotation marks and comments on as part of a value. They are refused,
    not removed: another program with the same file would use another secret. A secret that does contain `` #`` can
    come from a file.
    """
    visible = _INVISIBLE.sub("", text)
    found = [] if visible == text else ["has an invisible character in its value: type the value by hand"]
    if not _QUOTED.fullmatch(visible) and (comment := _COMMENT.search(visible)):
        found.append("has a comment in its value: give the comment a line of its own")
        visible = visible[: comment.start()].rstrip()
    return [*found, f"has a value {_IN_QUOTES}"] if _QUOTED.fullmatch(visible) else found


def secret_in(path: str) -> str:
    """The content of a secret file, without surrounding white space and byte order mark, which editors add.

    Raises ``ValueError`` with sentences to follow the variable's name.
    """
    if found := remarks(path):
        raise ValueError("\n".join(found))
    try:
        text = Path(path).read_text("utf-8-sig").strip()
    except OSError as error:
        raise ValueError(f"names a file that cannot be read ({error.strerror}): mend the path or permissions") from None
    except ValueError:  # not UTF-8, or a path with a null character
        raise ValueError("must name a text file in UTF-8") from None
    if not text:
        raise ValueError("names an empty file: write the secret into it")
    if _QUOTED.fullmatch(text):
        raise ValueError(f"names a file with a value {_IN_QUOTES}")
    return text
