"""What components use to tell ``doctor`` what they found."""

import asyncio
import threading

import pytest

from ai_task_processor.core import errors
from ai_task_processor.core.checks import Remote, aside, halves, refused, shown

API = Remote("task API", "API_BASE_URL", "https://api.example.com")


def no_token(cause: errors.RemoteError) -> errors.NoToken:
    error = errors.NoToken("no token: x")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.Unauthorized("the task API answered 403"), 78, ("403", "OAUTH2_SCOPE")),
        (errors.Misconfigured("the task API answered 404"), 78, ("404", "API_BASE_URL")),
        (errors.Misconfigured("it has no /x (404): set CHAT_API", status=404), 78, ("no /x (404)", "set CHAT_API")),
        (errors.InvalidAnswer("the answer is not a JSON array"), 78, ("not a JSON array", "API_BASE_URL")),
        (errors.Transient("the task API answered 503"), 69, ("503", "task API", "API_BASE_URL")),
        (errors.Throttled("the task API answered 429"), 69, ("429",)),
        (errors.Ambiguous("no answer within 30 s"), 69, ("no answer",)),
        (no_token(errors.Transient("the token endpoint answered 500")), 69, ("500",)),
    ],
)
def test_a_refusal_says_whose_fault_it_is(error: Exception, code: int, words: tuple[str, ...]) -> None:
    """What a setting mends is 78 and names it; what the remote must mend is 69 and names the remote."""
    finding = refused(error, API, {errors.Unauthorized: "OAUTH2_SCOPE"})
    assert (finding.mark, finding.code) == ("failure", code)
    assert [word for word in words if word not in f"{finding.text} {finding.remedy}"] == []


def test_a_redirect_is_explained_by_its_own_remedy() -> None:
    """Whether or not a web page comes with it."""
    page = Remote("task API", "API_BASE_URL", "http://api.example.com", page=True)
    text = "the task API answered 308, a redirect to https://api.example.com"
    finding = refused(errors.Misconfigured(f"{text}: use https in X", status=308), page, {})
    assert (finding.text, finding.remedy) == (text, "use https in X")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a", "b", "a"], "a, b"),
        (["a", "b", "c", "d", "e"], "a, b, c and 2 more"),
        (["x" * 31], "x" * 29 + "~"),
        (["\x1b[31m", "a\u202eb\n\ud800"], "?[31m, a?b??"),
    ],
)
def test_foreign_names_are_few_short_and_harmless(names: list[str], expected: str) -> None:
    """Whatever a task calls itself, at most three printable pieces of it are shown."""
    assert shown(names) == expected


async def test_blocking_work_is_done_aside() -> None:
    """Its value and its error come back to the loop."""
    assert await aside(lambda: 7) == 7
    with pytest.raises(OSError, match="full"):
        await aside(lambda: (_ for _ in ()).throw(OSError("full")))


async def test_whoever_stops_waiting_leaves_the_thread_in_peace() -> None:
    """A deadline ends the waiting; the thread ends later, on its own, without a word."""
    end = threading.Event()
    before = set(threading.enumerate())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await aside(end.wait)
    (thread,) = set(threading.enumerate()) - before
    end.set()
    thread.join(5)
    assert thread.daemon


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("it fails", ("it fails", "")),
        ("it fails: change A: b", ("it fails", "change A: b")),
        ("A: /b c.toml:12: d is no key: remove it: e", ("A: /b c.toml:12: d is no key", "remove it: e")),
        ("TASK_SOURCE: b.toml is not valid TOML", ("TASK_SOURCE: b.toml is not valid TOML", "")),
        ("it cannot be read (odd: x [y: z]): return less", ("it cannot be read (odd: x [y: z])", "return less")),
        ('must be like {"a": "b"}', ('must be like {"a": "b"}', "")),
        ("a redirect to https://x: correct Y", ("a redirect to https://x", "correct Y")),
        ("the task as it was: return it ({new: true})", ("the task as it was", "return it ({new: true})")),
    ],
)
def test_a_remedy_begins_at_the_first_colon_outside_of_brackets(text: str, expected: tuple[str, str]) -> None:
    """What an error quotes in brackets may have colons of its own."""
    assert halves(text) == expected
