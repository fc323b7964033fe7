"""The text of an HTML page, by lxml.

libxml2 is asked for events and not for a tree: a tree of 25 MB of HTML takes 250 MB, and the time for a tag with many
attributes grows with their square there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

#: elements without text for readers
DROPPED = frozenset({"script", "style", "noscript", "header", "footer", "nav", "aside", "form"})
#: elements whose text is taken, the best first
ROOTS = ("article", "main", "body")
#: elements that end a line
_BLOCKS = re.compile(
    r"address|article|blockquote|br|d[dlt]|div|fieldset|fig(caption|ure)|h[1-6r]|li|main|[ou]l|option|p(re)?|section|"
    r"t(able|[dhr])"
)
MAX_FIELD = 500
_CHARSET = re.compile(rb"""charset\s*=\s*["']?\s*([a-zA-Z0-9_:.-]{1,40})""")
#: encodings of pages; others that Python knows are no encodings of texts
_ENCODINGS = re.compile(r"utf-?8|utf-?16|iso-?8859|windows-?\d|cp\d|koi8|shift_jis|euc|gb|big5|latin", re.IGNORECASE)
_AUTHORS = ("author", "article:author", "dc.creator")
_DATES = ("article:published_time", "datepublished", "date", "dc.date", "pubdate")


@dataclass(frozen=True, slots=True)
class PageText:
    """``text``: lines without blanks at their ends; empty when there is none."""

    title: str = ""
    author: str = ""
    published: str = ""
    text: str = ""


def decoded(body: bytes, content_type: str) -> str:
    """The page as text without NUL: in the encoding that its header or its head names, else UTF-8."""
    found = _CHARSET.search(content_type.encode("ascii", "replace")) or _CHARSET.search(body[:1024])
    name = found[1].decode("ascii") if found else "utf-8"
    if body.startswith(b"\xef\xbb\xbf") or not _ENCODINGS.match(name):
        name = "utf-8-sig"
    try:
        text = body.decode(name, "replace")
    except (LookupError, UnicodeError):
        text = body.decode("utf-8", "replace")
    return text.replace("\0", "")


def tidied(text: str) -> str:
    """Lines without superfluous blanks, and without empty lines."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(filter(None, lines))


def extract(html: str) -> PageText:
    """Title, author, date and text of a page. Broken HTML is read as far as it goes."""
    from lxml import etree

    reader = _Reader()
    parser = etree.HTMLParser(target=reader, encoding="utf-8", no_network=True)
    try:
        parser.feed(html.encode("utf-8", "replace"))
        parser.close()
    except etree.XMLSyntaxError:  # what came before it counts
        return reader.page()
    return reader.page()


class _Reader:
    """What ``lxml.etree`` calls a parser target."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {root: [] for root in ROOTS}
        #: how deep in each; always in the body, whose tag may be missing
        self._depth: dict[str, int] = {"article": 0, "main": 0, "body": 1}
        self._dropped = 0
        self._in_title = False
        self._title: list[str] = []
        self._meta: dict[str, str] = {}

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag in DROPPED:
            self._dropped += 1
        elif tag in ("article", "main") and not self._dropped:
            self._depth[tag] += 1
        elif tag == "title" and not self._title:
            self._in_title = True
        elif tag == "meta":
            name = attributes.get("name") or attributes.get("property") or attributes.get("itemprop") or ""
            self._meta.setdefault(name.lower()[:50], attributes.get("content") or "")
        elif tag == "time" and attributes.get("datetime"):
            self._meta.setdefault("time", attributes["datetime"])
        if _BLOCKS.fullmatch(tag):
            self._take("\n")

    def end(self, tag: str) -> None:
        if _BLOCKS.fullmatch(tag):
            self._take("\n")
        if tag in DROPPED:
            self._dropped = max(0, self._dropped - 1)
        elif tag in ("article", "main") and not self._dropped:
            self._depth[tag] = max(0, self._depth[tag] - 1)
        elif tag == "title":
            self._in_title = False

    def data(self, text: str) -> None:
        if self._in_title:
            self._title.append(text)
        else:
            self._take(text)

    def comment(self, text: str) -> None:
        """Comments are no text."""

    def close(self) -> None:
        """There is no tree to return."""

    def _take(self, text: str) -> None:
        if self._dropped:
            return
        for root in ROOTS:
            if self._depth[root]:
                self._texts[root].append(text)

    def page(self) -> PageText:
        texts = (tidied("".join(self._texts[root])) for root in ROOTS)
        return PageText(
            title=_field("".join(self._title)) or self._first("og:title"),
            author=self._first(*_AUTHORS),
            published=self._first(*_DATES, "time"),
            text=next(filter(None, texts), ""),
        )

    def _first(self, *names: str) -> str:
        return next((text for name in names if (text := _field(self._meta.get(name, "")))), "")


def _field(text: str) -> str:
    return " ".join(text.split())[:MAX_FIELD]
