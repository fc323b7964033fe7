"""What was given: the layers that settings come from, secret files, and what the texts say together.

The floor below ``settings``: it knows variables by name, but no groups and no types. What is wrong becomes
a line that names the variable and the remedy, never the text.
"""

import io
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from dotenv.parser import Binding, parse_stream

from ai_task_processor.core.syntax import TRUE, ip_address

_PRIVATE_SUFFIXES = (".local", ".internal", ".svc", ".svc.cluster.local")
_QUOTED = re.compile(r"""(["'])(?P<straight>.*)\1|[\u201c\u2018\u201e](?P<curly>.*)[\u201d\u2019\u201c]""", re.DOTALL)
_IN_QUOTES = "in quotation marks, which arrived as part of it: remove them"
#: Looks like a space, or like nothing: from a web page, a chat, an editor. Line breaks and tabs may stand in JSON.
_INVISIBLE = re.compile(r"[^\S \t\r\n]|[\x00-\x08\x0e-\x1f\x7f\xad\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
#: Not a ``#`` inside JSON, which ends in a brace.
_COMMENT = re.compile(r"(?:^#\s|\s#)[^}]*$")


def read_dotenv(path: Path) -> tuple[dict[str, str], list[str]]:
    """What a ``.env`` file sets, and its problems. A missing file sets nothing. ``${NAME}`` is not expanded."""
    try:
        bindings = _bindings(path)
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [f"{path} cannot be read ({error.strerror}): mend or remove it"]
    except UnicodeDecodeError:
        return {}, [f"{path} is not UTF-8: save it as UTF-8"]
    problems = [f"{path}, line {b.original.line} is not readable: write NAME=value" for b in bindings if b.error]
    return {b.key: b.value for b in bindings if b.key and b.value is not None}, problems


def _bindings(path: Path) -> list[Binding]:
    return list(parse_stream(io.StringIO(path.read_text("utf-8"))))


def dollar_warnings(path: Path, names: Collection[str]) -> list[str]:
    """A warning for each variable that Docker Compose reads from ``.env`` with another value than this process.

    Compose expands ``$`` in values without quotation marks and in double ones, and takes single-quoted values as they
    are (https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/). Here nothing is
    expanded: a secret must not depend on the rest of the environment.
    """
    try:
        bindings = _bindings(path)
    except (OSError, UnicodeDecodeError):
        return []  # a problem of ``read_dotenv``
    return [
        f"{binding.key} has a $ in {path}, which Docker Compose would expand and this process does not: "
        "put the value in single quotes there"
        for binding in bindings
        if binding.key in names and "$" in (binding.value or "") and not _is_literal(binding)
    ]


def _is_literal(binding: Binding) -> bool:
    return binding.original.string.partition("=")[2].lstrip().startswith("'")


def layered(upper: Mapping[str, str], lower: Mapping[str, str], files: Mapping[str, str]) -> dict[str, str]:
    """Two layers in one, stripped, without empty texts.

    ``files``: variables that name a secret file, and the variable that the file stands for. Either of
    the two in the upper layer hides both in the lower one.
    """
    upper, lower = _filled(upper), _filled(lower)
    for pair in files.items():
        if upper.keys() & set(pair):
            lower = {name: text for name, text in lower.items() if name not in pair}
    return lower | upper


def bare(given: Mapping[str, str], names: Collection[str], problems: list[str]) -> dict[str, str]:
    """The values of ``names`` without what is in them although nobody meant it; a problem for each.

    ``docker run --env-file`` and Kubernetes pass quotation marks and comments on as part of a value. They are refused,
    not removed: another reader of the same file would use another secret. A secret that does contain `` #`` can come
    from a file. White space around a value (the ``\\r`` of a file from Windows, too) is removed by ``layered`` without
    a word: it belongs to no value of ours.
    """
    texts = dict(given)
    for name, text in given.items():
        if name in names:
            texts[name] = _bare(name, text, problems)
    return {name: text for name, text in texts.items() if text or name not in names}


def _bare(name: str, text: str, problems: list[str]) -> str:
    visible = _INVISIBLE.sub("", text)
    if visible != text:
        problems.append(f"{name} has an invisible character in its value: type the value by hand")
    if not _QUOTED.fullmatch(visible) and (comment := _COMMENT.search(visible)):
        problems.append(f"{name} has a comment in its value: give the comment a line of its own")
        visible = visible[: comment.start()].rstrip()
    if quoted := _QUOTED.fullmatch(visible):
        problems.append(f"{name} has a value {_IN_QUOTES}")
        visible = quoted["straight"] or quoted["curly"] or ""
    return visible.strip()


def _filled(layer: Mapping[str, str]) -> dict[str, str]:
    return {name: stripped for name, text in layer.items() if (stripped := text.strip())}


def _content(path: str) -> str:
    """The content of a secret file, without what editors add: surrounding white space, a byte order mark."""
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


def with_file_contents(given: Mapping[str, str], files: Mapping[str, str], problems: list[str]) -> dict[str, str]:
    """The given texts, with what stands in secret files in place of their paths."""
    texts = dict(given)
    for variable, name in files.items():
        path = texts.pop(variable, None)
        if path and name in texts:
            problems.append(f"{name} and {variable} are both set: remove one of them")
        elif path:
            try:
                texts[name] = _content(path)
            except ValueError as error:
                problems.append(f"{variable} {error}")
    return texts


def missing_credentials(given: Mapping[str, str]) -> list[str]:
    """What a token request cannot do without, and nobody gave."""
    problems = []
    if not given.keys() & {"ORY_PROJECT_SLUG", "OAUTH2_TOKEN_URL"}:
        problems.append(
            "ORY_PROJECT_SLUG is missing: set it to the slug of your Ory project, "
            "or OAUTH2_TOKEN_URL to the token endpoint of another OAuth2 server"
        )
    method = given.get("OAUTH2_AUTH_METHOD", "client_secret_basic").lower()
    if method == "private_key_jwt" and "OAUTH2_PRIVATE_KEY_FILE" not in given:
        problems.append("OAUTH2_PRIVATE_KEY_FILE is missing: set it to the path of an RSA private key in PEM format")
    if method.startswith("client_secret") and not given.keys() & {"OAUTH2_CLIENT_SECRET", "OAUTH2_CLIENT_SECRET_FILE"}:
        problems.append(
            "OAUTH2_CLIENT_SECRET is missing: set it to the secret of your OAuth2 client, "
            "or OAUTH2_CLIENT_SECRET_FILE to a file that holds it"
        )
    return problems


def plain_http_warnings(texts: Mapping[str, str], problems: list[str]) -> list[str]:
    """Warnings about unencrypted remotes; public ones are a problem unless they are allowed."""
    allowed = texts.get("ALLOW_INSECURE_HTTP", "").lower() in TRUE
    warnings = []
    for name in ("API_BASE_URL", "OAUTH2_TOKEN_URL", "OPENAI_BASE_URL", "HTTPS_PROXY"):
        url = texts.get(name, "")
        reach = _reach(url)
        if name == "HTTPS_PROXY" and "@" not in url:
            continue  # TLS passes through a proxy unopened: only its own credentials are at stake
        if reach == "private" or (reach == "public" and allowed):
            warnings.append(f"{name} is plain http to a {reach} host: credentials and data can be read on the way")
        elif reach == "public":
            problems.append(
                f"{name} must use https, because plain http shows credentials and data on the way; "
                "ALLOW_INSECURE_HTTP=true permits it"
            )
    return warnings


def _reach(url: str) -> Literal["loopback", "private", "public"] | None:
    """How far unencrypted requests to this URL travel; None for https and for what is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    if parts.scheme != "http" or not parts.hostname:
        return None
    host = parts.hostname.rstrip(".")
    if address := ip_address(host):
        return "loopback" if address.is_loopback else "private" if address.is_private else "public"
    if host == "localhost":
        return "loopback"
    if re.fullmatch(r"\d+|0x[0-9a-f]*", host.rsplit(".", 1)[-1]):
        return "public"  # 134744072 is 8.8.8.8 to the resolver, not a dotless name
    return "private" if "." not in host or host.endswith(_PRIVATE_SUFFIXES) else "public"
