"""Masks secrets in texts: known ones in every usual notation, and whatever looks like a credential."""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

MASK = "***"
#: a shorter secret is not masked: it would occur by chance in most lines
MIN_SECRET = 4

_NAME = r"(?:access|refresh|id)_token|client_(?:secret|assertion)|api[_-]?key|password|authorization"
SENSITIVE_KEY = re.compile(rf"(?:.*[-_])?(?:{_NAME})", re.IGNORECASE)
_CREDENTIALS = (
    # schemes of an Authorization header
    (re.compile(r"(bearer|basic)(?:[ \t:=]|%20)+[^\s\"'<>,;]+", re.IGNORECASE), rf"\1 {MASK}"),
    # OpenAI's keys; "task-1a2b" is none, but an escape or an octet may stand in front of one
    (re.compile(r"(?:(?<![A-Za-z0-9])|(?<=\\[nrt])|(?<=%[0-9A-Fa-f]{2}))sk-[A-Za-z0-9_-]{4,}"), MASK),
    # user and password of a URL
    (re.compile(r"://[^\s\"'<>]{1,512}@"), f"://{MASK}@"),
    # a JWT, whole or cut
    (re.compile(r"eyJ[A-Za-z0-9_-]{5,}(?:\.[A-Za-z0-9_-]*){0,4}"), MASK),
    # a form field, or a member of a JSON object
    (re.compile(rf"((?:{_NAME})(?:=|\\?[\"']\s*:\s*\\?[\"']))[^\s\"'\\&]+", re.IGNORECASE), rf"\1{MASK}"),
)
# every match of the above contains one of these in lower case: one search instead of five for most texts
_HINTED = re.compile(rf"bearer|basic|sk-|://|eyj|{_NAME}")
# every match of that contains one of these: a search for words is faster than any expression
_HINTS = ("bearer", "basic", "sk-", "://", "eyj", "_token", "client_", "api", "password", "authorization")


def _may_hold_credentials(text: str) -> bool:
    lower = text.lower()
    for hint in _HINTS:
        if hint in lower:
            return _HINTED.search(lower) is not None
    return False


class Masker:
    """Replaces known secrets, in every usual notation, and whatever looks like a credential."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._patterns: set[str] = set()
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Mask these secrets, too."""
        self._patterns |= {pattern for secret in secrets for part in _parts(secret) for pattern in _patterns(part)}
        self._known = re.compile("|".join(sorted(self._patterns, key=len, reverse=True)) or r"(?!)")

    def may_mask(self, text: str) -> bool:
        """May ``text`` contain anything to mask?"""
        return self._known.search(text) is not None or _may_hold_credentials(text)

    def __call__(self, text: str) -> str:
        text = self._known.sub(MASK, text)
        if _may_hold_credentials(text):
            for pattern, replacement in _CREDENTIALS:
                text = pattern.sub(replacement, text)
        return text


def _parts(secret: str) -> Iterator[str]:
    """The secret, and the lines of a private key, which a library may print one by one."""
    return (part for part in (secret.strip(), *secret.splitlines()) if len(part) >= MIN_SECRET)


def _patterns(secret: str) -> Iterator[str]:
    """As it is, in a URL or form, as a JSON or Python literal, and inside base64, as in Basic credentials."""
    literals = (json.dumps(secret), json.dumps(secret, ensure_ascii=False), repr(secret), ascii(secret))
    for text in (secret, *(literal[1:-1] for literal in literals)):
        # a literal inside a literal doubles its backslashes: any number of them matches
        yield "".join(map(_loosely, re.sub(r"\\+", r"\\", text)))
    raw = secret.encode("utf-8", "surrogatepass")
    for encoded in (raw, quote(raw, safe="").encode(), quote(raw).encode(), quote_plus(raw).encode()):
        yield from map(re.escape, _base64_cores(encoded))


def _loosely(char: str) -> str:
    """A character as it is, escaped, or as octets. Encoders do not agree on which characters need no octets."""
    if char.isascii() and char.isalnum():
        return char
    octets = "".join(f"%(?:25)*{octet:02x}" for octet in char.encode("utf-8", "surrogatepass"))
    plain = {" ": r"(?: |\+)", "\\": r"\\++", '"': r'\\*+"', "'": r"\\*+'"}.get(char, re.escape(char))
    return f"(?:{plain}|(?i:{octets}))"


def _base64_cores(raw: bytes) -> Iterator[str]:
    """The characters that stand for ``raw`` at each of its three possible alignments in a longer base64 text."""
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode()
        core = encoded[-(-shift * 8 // 6) : (shift + len(raw)) * 8 // 6]
        yield from (core, core.replace("+", "-").replace("/", "_"))
