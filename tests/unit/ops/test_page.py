"""The page at ``/``: parsed as a browser does, with hostile texts in every place."""

import base64
import hashlib
import re
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from ai_task_processor.ops.page import FOLDER, render
from ai_task_processor.ops.status import Circuit, RunningTask
from tests.unit.ops.statuses import WELL, error, status

NOW = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)
HOSTILE = "\"><script>alert('x')</script><img src=x onerror=alert(1)>&amp;{{ 7*7 }}"


class Page(HTMLParser):
    """Tags in order with their attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def page(**changes: object) -> tuple[Page, str, dict[str, str]]:
    body, headers = render(status(**changes), {"token": {"held": True}}, NOW)
    return Page(body.decode()), body.decode(), dict(headers)


def test_it_is_a_document_that_everybody_can_read() -> None:
    """A language, a title with the state, headings in order, every table with headers of rows and columns."""
    parsed, text, _ = page(last_errors=[error()])
    assert ("html", {"lang": "en"}) in parsed.tags
    assert "<title>✔ running, ready - ai-task-processor</title>" in text
    levels = [tag for tag, _ in parsed.tags if re.fullmatch(r"h\d", tag)]
    assert levels[:2] == ["h1", "h2"]
    assert set(levels[1:]) == {"h2"}
    scopes = Counter(attributes.get("scope") for tag, attributes in parsed.tags if tag == "th")
    assert scopes.keys() == {"row", "col"}
    assert scopes["row"] == parsed.count("tr") - parsed.count("thead")
    assert {name for name, _ in parsed.tags} >= {"header", "main", "footer"}
    assert [attributes["href"] for tag, attributes in parsed.tags if tag == "a"] == [
        "/", "/?refresh", "/status", "/ready", "/health", "/metrics",
    ]  # fmt: skip


def test_hostile_texts_stay_texts() -> None:
    """In a reason, an id, a name of a model or a circuit: no tag, no attribute and no expression comes of it."""
    expected = page(
        last_errors=[error()],
        circuits={"x": Circuit(state="open", reason="x", wait_seconds=1.0)},
    )[0]
    parsed, text, _ = page(
        why_idle=HOSTILE,
        source=HOSTILE,
        running_tasks=[RunningTask(id=HOSTILE, type=HOSTILE, age_seconds=1.0)],
        last_errors=[error(reason=HOSTILE, event=HOSTILE, component=HOSTILE)],
        circuits={HOSTILE: Circuit(state=HOSTILE, reason=HOSTILE, wait_seconds=1.0)},
        models=[replace(WELL.models[0], name=HOSTILE, waits_because=HOSTILE)],
    )
    assert Counter(tag for tag, _ in parsed.tags) == Counter(tag for tag, _ in expected.tags)
    assert parsed.words.count(HOSTILE) >= 10
    assert "49" not in text


def test_a_lone_surrogate_is_no_error() -> None:
    assert b"id ?" in render(status(source="id \udce9"), {}, NOW)[0]


def test_the_policy_allows_the_style_of_the_page_and_nothing_else() -> None:
    parsed, text, headers = page()
    style = text.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert headers["Content-Security-Policy"] == (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    names = {name for _, attributes in parsed.tags for name in attributes}
    assert names <= {"lang", "charset", "name", "content", "class", "aria-hidden", "scope", "href", "data-label"}
    assert parsed.count("script") == 0


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_has_contrast(scheme: int) -> None:
    """4.5:1 at least on both backgrounds (WCAG 2.2, 1.4.3)."""
    blocks = re.findall(r":root \{([^}]*)\}", (FOLDER / "page.css").read_text())
    assert len(blocks) == 2
    colours = dict(re.findall(r"--(\w+): (#\w{6})", blocks[scheme]))
    assert colours.keys() == {"back", "card", "line", "text", "soft", "good", "warn", "bad", "link"}
    pairs = [(name, ground) for name in colours.keys() - {"back", "card", "line"} for ground in ("back", "card")]
    assert [pair for pair in pairs if contrast(colours[pair[0]], colours[pair[1]]) < 4.5] == []
