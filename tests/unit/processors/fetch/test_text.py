"""The text of pages, also of those that nobody should write."""

import time

import pytest

from ai_task_processor.processors.fetch.text import PageText, decoded, extract


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>only text", "only text"),
        ("plain", "plain"),
        ("", ""),
        ("<script>x</script><style>y</style><noscript>z</noscript>", ""),
        ("<nav>a</nav><header>b</header><p>c</p><aside>d</aside><form>e</form><footer>f</footer>", "c"),
        ("<p>a<article><header>h</header><p>one<p>two <b>bo</b>ld &amp; &lt;br&gt;<br>three</article><p>b",
         "one\ntwo bold & <br>\nthree"),
        ("<main>m</main>rest", "m"),
        ("<main>m<article>a</article></main>", "a"),
        ("<article> </article><main>m</main>", "m"),
        ("<table><tr><td>a<td>b</table>", "a\nb"),
        ("<!-- <p>no -->yes<!-- no", "yes"),
        ("</div></nav></body></html>after", "after"),
        ("<nav><nav>a</nav>b</nav>c", "c"),
    ],
)  # fmt: skip
def test_texts(html: str, text: str) -> None:
    """Of the article, else of the main part, else of the body; without what is no text for readers."""
    assert extract(html).text == text


def test_the_head() -> None:
    """Title, author and date, where a page tells them."""
    page = """<title> A
    title</title><meta name="Author" content="A. Writer"><meta property="article:published_time" content="2026-01-02">
    <time datetime="2020-01-01">then</time>"""
    assert extract(page) == PageText("A title", "A. Writer", "2026-01-02", "then")
    assert extract("<meta property=og:title content=T><time datetime=2020-01-01>x</time>").published == "2020-01-01"


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        ("ü".encode(), "text/html", "ü"),
        ("ü".encode("cp1252"), "text/html; charset=ISO-8859-1", "ü"),
        ("привет".encode("cp1251"), 'text/html; charset="windows-1251"', "привет"),
        ('<meta charset="koi8-r">д'.encode("koi8-r"), "text/html", '<meta charset="koi8-r">д'),
        (b"\xef\xbb\xbf\xc3\xbc", "text/html; charset=latin1", "ü"),
        (b"\xff", "text/html", "\ufffd"),
        (b"a\0b", "text/plain", "ab"),
        (b"x", "text/html; charset=hex", "x"),
        (b"x", "text/html; charset=idna", "x"),
        (b"x", "text/html; charset=utf-99", "x"),
    ],
)
def test_encodings(body: bytes, content_type: str, text: str) -> None:
    """UTF-8, unless the page says otherwise; no page chooses a codec that is none of a text."""
    assert decoded(body, content_type) == text


@pytest.mark.parametrize(
    "html",
    [
        "<div>" * 400_000 + "x",
        "<a " + " ".join(f"a{number}=1" for number in range(200_000)) + ">x",
        "<b><i><u>" * 50_000 + "x",
        "<table>" * 50_000 + "x",
        "</nav>" * 200_000 + "x",
        "&amp;" * 200_000,
        "<p>" * 200_000 + "x",
        "<!--" * 200_000,
    ],
    ids=["deep", "attributes", "formats", "tables", "ends", "entities", "paragraphs", "comments"],
)
def test_pages_that_are_made_to_be_slow(html: str) -> None:
    """Reading takes time in proportion to the page: two megabytes of anything take seconds at most."""
    began_at = time.process_time()
    extract(html)
    assert time.process_time() - began_at < 5
