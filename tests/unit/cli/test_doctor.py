"""``doctor``: the finding for each error, the order of the checks, and the report."""

import asyncio
import io
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ai_task_processor.cli.doctor import checks, report
from ai_task_processor.cli.doctor.main import run
from ai_task_processor.cli.doctor.report import Report
from ai_task_processor.core import errors
from ai_task_processor.core.checks import Check, Finding, Listed, Remote, ok, skipped, unusable, warning, wrong
from ai_task_processor.core.component import Component, Problem
from ai_task_processor.engine.faults import Faults
from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.net import tls
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.oauth_settings import AuthSettings
from ai_task_processor.net.token_answers import token_remedy
from ai_task_processor.ops.masking import Masker
from tests.contract.http.servers import Authority

API = Remote("task API", "API_BASE_URL", "https://api.example.com")
NOW = datetime(2026, 5, 17, 3, 0, 0, tzinfo=UTC)


def auth(method: str = "client_secret_basic") -> AuthSettings:
    names = {"OAUTH2_TOKEN_URL": "https://id.example.com/token", "OAUTH2_CLIENT_ID": "me"}
    return AuthSettings.model_validate(names | {"OAUTH2_AUTH_METHOD": method})


def caused(error: errors.RemoteError, *causes: BaseException) -> errors.RemoteError:
    """The error as a library raises it: each cause below the one before."""
    for above, cause in pairwise((error, *causes)):
        above.__cause__ = cause
    return error


def unreachable(error: errors.RemoteError, *, proxied: bool = False) -> Finding:
    return checks.unreachable(error, API, proxied=proxied)


def distrust(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "as OpenSSL says"
    return error


@pytest.mark.parametrize(
    ("text", "causes", "code", "words"),
    [
        ("TLS: WRONG_VERSION_NUMBER", [ValueError(), ssl.SSLError(1, "x")], 78, ("no TLS", "API_BASE_URL")),
        ("TLS: the server demands a client certificate: set CLIENT_CERT_FILE", [], 78,
         ("api.example.com: the server demands", "set CLIENT_CERT_FILE")),
        ("the proxy answered 407 to CONNECT: look at HTTPS_PROXY and NO_PROXY", [], 78, ("HTTPS_PROXY",)),
        ("x", [ValueError(), ConnectionRefusedError(111, "refused")], 69, ("is it running?", "API_BASE_URL")),
        ("x", [OSError("all"), ExceptionGroup("each", [OSError(101, "x"), ConnectionRefusedError(111, "no")])],
         69, ("is it running?",)),
        ("no connection in time", [TimeoutError()], 69, ("firewall", "API_BASE_URL")),
        ("no route to host", [OSError(113, "x")], 69, ("no route", "API_BASE_URL")),
    ],
)  # fmt: skip
def test_a_missing_connection_is_explained(
    text: str, causes: list[BaseException], code: int, words: tuple[str, ...]
) -> None:
    """However deep the cause lies, it decides the sentence, the setting and the exit code."""
    finding = unreachable(caused(errors.Unsent(text), *causes))
    assert (finding.mark, finding.code) == ("failure", code)
    assert [word for word in words if word not in f"{finding.text} {finding.remedy}"] == []


@pytest.mark.parametrize(
    ("code", "bundled", "exit_code", "text", "remedy"),
    [
        (10, False, 69, "expired", "renewed where API_BASE_URL points"),
        (9, False, 69, "not valid yet", "clock"),
        (62, True, 78, "another host name", "correct the host in API_BASE_URL"),
        (64, False, 78, "another host name", "correct the host in API_BASE_URL"),
        (20, False, 78, "(as OpenSSL says)", "set CA_BUNDLE"),
        (20, True, 78, "(as OpenSSL says)", "add the root of its chain to the file that CA_BUNDLE names"),
    ],
)
def test_a_refused_certificate_is_explained(code: int, bundled: bool, exit_code: int, text: str, remedy: str) -> None:
    """In the words of the daemon, with the setting that holds the URL."""
    cause = distrust(code)
    finding = unreachable(caused(errors.Unsent(f"TLS: {tls.distrust(cause, bundled=bundled)}"), cause))
    assert (finding.mark, finding.code) == ("failure", exit_code)
    assert text in finding.text
    assert remedy in finding.remedy


def test_a_proxy_is_named() -> None:
    """A refused connection may be the proxy's."""
    finding = unreachable(caused(errors.Unsent("x"), ConnectionRefusedError(111, "no")), proxied=True)
    assert "(or the proxy)" in finding.text
    assert "HTTPS_PROXY" in finding.remedy


def test_a_connection_without_an_answer_is_left_to_later_checks() -> None:
    """Some servers drop HEAD requests: the checks that follow must run nevertheless."""
    assert unreachable(errors.Ambiguous("no answer within 5 s")).mark == "warning"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("invalid_client", ("OAUTH2_CLIENT_ID", "OAUTH2_CLIENT_SECRET", "OAUTH2_AUTH_METHOD")),
        ("invalid_scope", ("OAUTH2_SCOPE",)),
        ("invalid_target", ("OAUTH2_AUDIENCE",)),
        ("invalid_request", ("OAUTH2_AUDIENCE", "OAUTH2_SCOPE")),
        ("access_denied", ("OAUTH2_AUDIENCE", "client_credentials", "OAUTH2_SCOPE")),
        ("unauthorized_client", ("client_credentials", "OAUTH2_CLIENT_ID")),
        ("unsupported_grant_type", ("OAUTH2_TOKEN_URL",)),
    ],
)
def test_each_refusal_of_a_token_has_its_remedy(code: str, words: tuple[str, ...]) -> None:
    remedy = token_remedy(f"the token endpoint refuses the client: {code}", auth())
    assert [word for word in words if word not in remedy] == []


def test_a_client_with_a_key_is_not_sent_to_its_secret() -> None:
    """With private_key_jwt it is the key and the issuer that may be wrong."""
    remedy = token_remedy("invalid_client", auth("private_key_jwt"))
    assert "OAUTH2_PRIVATE_KEY_FILE" in remedy
    assert "OAUTH2_CLIENT_SECRET" not in remedy


@pytest.mark.parametrize(
    ("text", "rest", "remedy"),
    [
        ("A_NAME is missing", ": set it to the base URL", "set A_NAME to the base URL"),
        ("A_NAME must be one of a, b", "", "correct A_NAME"),
        ("A_NAME names an empty file", ": write the secret into it", "A_NAME: write the secret into it"),
        ('A_NAME must be a JSON object, for example {"a": "b"}', "", "correct A_NAME"),
        (".env, line 3 is not readable", ": write NAME=value", ".env: write NAME=value"),
        ("the source 'a' of the package 'b' cannot be loaded", ": uninstall it", "uninstall it"),
    ],
)
def test_a_mistake_names_its_variable_in_the_remedy(text: str, rest: str, remedy: str) -> None:
    """The problem on one line, the remedy on the next, which can be understood without the first."""
    assert checks.mistake(text + rest) == Finding("failure", text, remedy, 78)


@pytest.mark.parametrize(
    ("codes", "expected"), [([], 0), ([69], 69), ([69, 73], 73), ([73, 78, 69], 78), ([69, 69], 69)]
)
def test_the_most_specific_code_wins(codes: list[int], expected: int) -> None:
    """78 before 73 before 69; warnings and skipped checks are no failure."""
    harmless = [ok("x"), warning("x", "y"), skipped("x")]
    assert report.exit_code([*harmless, *(Finding("failure", "x", "y", code) for code in codes)]) == expected


def test_the_summary_counts() -> None:
    """Problems are counted; without any it says what to do next, and how many warnings to read first."""
    bad, warned = wrong("x", "y"), warning("x")
    assert report.summary([bad, warned]) == "1 problem found"
    assert report.summary([bad, skipped("x"), bad]) == "2 problems found"
    assert report.summary([warned, warned]) == "Ready, with 2 warnings: start with `ai-task-processor run`"
    assert report.summary([ok("x", daemon=True)]) == "Ready: a daemon is running"


def test_a_list_is_counted_by_what_can_be_done() -> None:
    """Seen, able and foreign; records that are no tasks are seen, too."""
    tasks = [Task(id=str(n), type="odd" if n else TaskType.TEXT_EMBEDDING, content=None) for n in range(4)]
    seen = Listed(tasks, 6, complete=False, took="5 ms")
    able, foreign = checks.listed(seen, lambda task: task.type == TaskType.TEXT_EMBEDDING)
    assert able == ok("tasks seen: 6 (the head of the list), can be processed here: 1 (5 ms)")
    assert (foreign.mark, foreign.text) == ("warning", "3 are of types without a processor here: odd")


@pytest.mark.parametrize(
    ("date", "age", "expected"),
    [
        ("Sun, 17 May 2026 03:00:00 GMT", None, 0.5),
        ("Sun, 17 May 2026 03:01:00 GMT", None, 60.5),
        ("Sun, 17 May 2026 03:01:00 GMT", "60", None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_skew_is_read_off_a_fresh_answer(date: str | None, age: str | None, expected: float | None) -> None:
    """The date is cut to seconds, so half of one is added; no date, or that of a cache, is no evidence."""
    headers = {name: value for name, value in (("date", date), ("age", age)) if value}
    seen = replace(API)
    checks.note([seen], lambda: NOW, Answer(200, headers))
    assert seen.skew_s == expected


@pytest.mark.parametrize(
    ("skew", "mark", "word"),
    [(None, "skipped", "no date"), (29.0, "ok", "29 s"), (31.0, "warning", "behind"), (-31.0, "warning", "ahead")],
)
async def test_thirty_seconds_of_skew_are_too_much(skew: float | None, mark: str, word: str) -> None:
    """Beyond it a warning says which way to turn the clock, and that NTP does it."""
    database = Remote("database", "A_URL", "postgresql://host")
    (finding,) = [each async for each in checks.clocks([replace(API, skew_s=skew), database])]
    assert finding.mark == mark
    assert word in finding.text
    assert ("NTP" in finding.remedy) == (mark == "warning")


@pytest.mark.parametrize(("days", "mark"), [(15, "ok"), (13, "warning")])
def test_a_certificate_that_ends_soon_is_a_warning(days: int, mark: str) -> None:
    """The remaining days are shown; fewer than fourteen are a warning."""
    ends = (NOW + timedelta(days=days, hours=1)).strftime("%b %d %H:%M:%S %Y GMT")
    finding = checks.certificate({"notAfter": ends}, NOW.timestamp(), "api.example.com answers TLSv1.3")
    assert finding.mark == mark
    assert f"expires in {days} days" in finding.text


@pytest.mark.parametrize(("days", "mark"), [(15, "ok"), (13, "warning")])
def test_our_own_certificate_is_looked_at(tmp_path: Path, days: int, mark: str) -> None:
    cert = Authority(tmp_path).issue("client", days=days)
    finding = checks.own_certificate(cert, datetime.now(UTC) - timedelta(hours=1))
    assert (finding.mark, finding.text) == (mark, f"the client certificate expires in {days} days")
    assert ("CLIENT_CERT_FILE" in finding.remedy) == (mark == "warning")


def answering(*findings: Finding | Exception, title: str = "x", needs: Sequence[Check | Remote] = ()) -> Check:
    async def work() -> AsyncIterator[Finding]:
        for finding in findings:
            if isinstance(finding, Exception):
                raise finding
            yield finding

    return Check(title, work, "SOME_SETTING", needs)


async def told(*todo: Check, deadline_s: float = 5.0) -> list[tuple[str, Finding]]:
    lines: list[tuple[str, Finding]] = []
    await run(todo, lambda title, finding, _: lines.append((title, finding)), deadline_s=deadline_s)
    return lines


async def test_what_depends_on_a_failure_is_skipped_and_the_rest_goes_on() -> None:
    """Skipping is passed on to those who need the skipped; the independent are still made."""
    first = answering(ok("x"), wrong("y", "z"), title="first")
    second = answering(ok("x"), title="second", needs=[first])
    third = answering(ok("x"), title="third", needs=[second])
    other = answering(warning("x"), title="other")
    last = answering(ok("x"), title="last", needs=[other])
    lines = await told(first, second, third, other, last)
    assert [(title, finding.mark) for title, finding in lines] == [
        ("first", "ok"), ("first", "failure"), ("second", "skipped"), ("third", "skipped"),
        ("other", "warning"), ("last", "ok"),
    ]  # fmt: skip


async def test_a_need_is_one_check_and_not_its_title() -> None:
    """Two components may each have a token."""
    theirs, ours = answering(wrong("x", "y"), title="token"), answering(ok("x"), title="token")
    lines = await told(theirs, ours, answering(ok("x"), title="list", needs=[ours]))
    assert [finding.mark for _, finding in lines] == ["failure", "ok", "ok"]


async def test_who_needs_a_server_is_told_which_check_of_it_failed() -> None:
    """The first that failed: what followed was skipped."""
    dns = Check("DNS", answering(wrong("x", "y")).work, "S", (), "task API", API)
    connection = Check("connection", answering(ok("x")).work, "S", (API,), "task API", API)
    *_, (_, finding) = await told(dns, connection, answering(ok("x"), needs=[API]))
    assert finding == skipped("skipped: needs DNS of the task API")


async def test_a_check_that_hangs_ends_at_its_deadline() -> None:
    """It is a failure of its own kind, its earlier findings stay, and the next check runs."""

    async def hang() -> AsyncIterator[Finding]:
        yield ok("so far")
        await asyncio.Event().wait()

    disk = Check("disk", hang, "DATA_DIR", late=unusable)
    assert [finding.code for _, finding in await told(disk, answering(ok("x")), deadline_s=0.01)] == [0, 73, 0]


async def test_a_check_that_crashes_does_not_end_the_others() -> None:
    """A ``RemoteError`` is shown as the remote's; any other error with type and place, without its text."""
    remote, bug = answering(errors.Transient("it answered 503")), answering(KeyError("secret"))
    (_, first), (_, second), (_, third) = await told(remote, bug, answering(ok("x")))
    assert (first.text, first.code, second.code, third.mark) == ("it answered 503", 69, 78, "ok")
    assert "KeyError in " in second.text
    assert "secret" not in second.text


def on_screen(*, terminal: bool = False, encoding: str = "utf-8") -> tuple[Report, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding, write_through=True)
    return Report(Console(file=file, force_terminal=terminal, highlight=False, width=40, _environ={})), raw


def test_a_finding_is_one_line_and_its_remedy_another() -> None:
    """However narrow the screen: long lines are the terminal's to wrap, so that grep finds them whole."""
    target, raw = on_screen()
    target.add("token", wrong("w" * 60 + " [bold]x[/bold]", "change SOME_SETTING"), "somebody")
    assert target.close("1 problem found") == 78
    first, second, last = raw.getvalue().decode().splitlines()
    assert first == f"✗ token           somebody: {'w' * 60} [bold]x[/bold]"
    assert (second, last) == ("    change SOME_SETTING", "1 problem found")


def test_colours_are_for_terminals() -> None:
    for terminal in (True, False):
        target, raw = on_screen(terminal=terminal)
        target.add("token", ok("fine"))
        assert (b"\x1b[" in raw.getvalue()) == terminal


def test_ascii_screens_get_ascii() -> None:
    """Signs have stand-ins, and what cannot be shown becomes a question mark instead of a crash."""
    target, raw = on_screen(encoding="ascii")
    target.add("data directory", unusable("/dät\x07a cannot be written", "change DATA_DIR"))
    assert raw.getvalue().decode("ascii").splitlines()[0] == "x data directory  /d?t?a cannot be written"


def test_secrets_are_masked_wherever_they_stand() -> None:
    """Finding, remedy and summary pass the same mask as the logs."""
    target, raw = on_screen()
    target.mask = Masker(["planted-secret"])
    target.add("token", wrong("it says planted-secret", "not planted-secret"), "planted-secret")
    target.close("planted-secret")
    assert raw.getvalue().count(b"***") == 4
    assert b"planted" not in raw.getvalue()


class Silent(Component):
    """Explains nothing."""


class Explaining(Component):
    """Knows one problem."""

    def explain(self, problem: Problem) -> Finding | None:
        return wrong(f"mine: {problem.message}", "mend it") if problem.code == "known" else None


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([], []),
        (["starting", "draining"], []),
        (["known: a: b"], [wrong("mine: a: b", "mend it")]),
        (["outbox_full", "known"], [warning("it says: outbox_full"), wrong("mine: ", "mend it")]),
    ],
)
def test_what_the_daemon_beside_says_is_told(reasons: list[str], expected: list[Finding]) -> None:
    """In the words of the component that knows the problem; the rest is passed on."""
    status = {"state": "running", "not_ready_because": reasons}
    first, *found = checks.reported(status, [Silent(), Explaining()], Faults())
    assert first == ok("it answers 'running'", daemon=True)
    assert found == expected
    paused = {**status, "paused": {"reason": "x"}, "why_idle": "paused by an operator: x"}
    claimless = warning("it claims nothing: paused by an operator: x", "ai-task-processor resume")
    assert list(checks.reported(paused, [Explaining()], Faults()))[1] == claimless


@pytest.mark.parametrize("answer", [SystemExit(3), "nonsense"])
async def test_a_component_that_cannot_explain_is_named(answer: object) -> None:
    """Another one is asked, and the failure is a finding of its own."""

    class Failing(Component):
        name = "failing"

        def explain(self, _: Problem) -> Any:
            if isinstance(answer, BaseException):
                raise answer
            return answer

    status = {"state": "running", "not_ready_because": ["outbox_full"]}
    faults = Faults()
    assert len(list(checks.reported(status, [Failing(), Explaining()], faults))) == 2
    (finding,) = [finding async for finding in checks.failed(faults)]
    assert finding.mark == "failure"
    assert finding.text.startswith("the component 'failing' fails in explain (")


@pytest.mark.parametrize(
    "status", [None, [], {}, {"not_ready_because": 7}, {"not_ready_because": [None, ["a" * 9999]]}]
)
def test_a_strange_status_is_harmless(status: object) -> None:
    """Another server may listen there: its words are few."""
    assert all(len(finding.text) < 400 for finding in checks.reported(status, [], Faults()))
