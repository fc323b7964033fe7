"""The doctor's judgement: what an error means, whose fault it is, and how it is told."""

import asyncio
import errno
import io
import ssl
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from rich.console import Console

from ai_task_processor.cli.doctor import diagnosis, examination, patient, report
from ai_task_processor.cli.doctor.report import Check, Finding, Remote, Report
from ai_task_processor.core import errors
from ai_task_processor.core.settings import AuthSettings
from ai_task_processor.models.task import Task, TaskType
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.token_answers import token_remedy
from ai_task_processor.ops.masking import Masker
from ai_task_processor.sources.nestjs.page import Page

API = Remote("task API", "API_BASE_URL", "https://api.example.com")
NOW = datetime(2026, 5, 17, 3, 0, 0, tzinfo=UTC)


def auth(method: str = "client_secret_basic") -> AuthSettings:
    return AuthSettings.model_validate(
        {"OAUTH2_TOKEN_URL": "https://id.example.com/token", "OAUTH2_CLIENT_ID": "me", "OAUTH2_AUTH_METHOD": method}
    )


def caused(error: errors.RemoteError, *causes: BaseException) -> errors.RemoteError:
    """The error as a library raises it: each cause below the one before."""
    above: BaseException = error
    for cause in causes:
        above.__cause__ = cause
        above = cause
    return error


def distrust(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = code, "as OpenSSL says"
    return error


@pytest.mark.parametrize(
    ("causes", "code", "words"),
    [
        ((distrust(10),), 69, ("expired",)),
        ((distrust(9),), 69, ("not valid yet", "clock")),
        ((distrust(62),), 78, ("another host name", "API_BASE_URL")),
        ((distrust(64),), 78, ("another host name", "API_BASE_URL")),
        ((distrust(20),), 78, ("CA_BUNDLE", "as OpenSSL says")),
        ((aiohttp.ClientConnectionError("x"), ssl.SSLError(1, "wrong version number")), 78, ("no TLS", "API_BASE_URL")),
        ((aiohttp.ClientError("x"), ConnectionRefusedError(111, "refused")), 69, ("is it running?", "API_BASE_URL")),
        ((OSError("all"), ExceptionGroup("each", [OSError(101, "unreachable"), ConnectionRefusedError(111, "no")])),
         69, ("is it running?",)),
        ((aiohttp.ConnectionTimeoutError("x"),), 69, ("firewall", "API_BASE_URL")),
        ((OSError(113, "no route to host"),), 69, ("API_BASE_URL",)),
    ],
)  # fmt: skip
def test_a_missing_connection_is_explained(
    causes: tuple[BaseException, ...], code: int, words: tuple[str, ...]
) -> None:
    """However deep the cause lies, it decides the sentence, the setting and the exit code."""
    told = "TLS: no" if any(isinstance(cause, ssl.SSLError) for cause in causes) else "unsent"
    finding = diagnosis.unreachable(caused(errors.Unsent(told), *causes), API, proxied=False, bundled=False)
    assert (finding.mark, finding.code) == ("failure", code)
    assert [word for word in words if word not in f"{finding.text} {finding.remedy}"] == []


@pytest.mark.parametrize(
    ("told", "cause", "words"),
    [
        ("TLS: the server demands a client certificate: set CLIENT_CERT_FILE", ssl.SSLError(1, "alert"),
         ("demands a client certificate", "set CLIENT_CERT_FILE")),
        ("the proxy answered 407 to CONNECT: look at HTTPS_PROXY and NO_PROXY", None, ("407", "HTTPS_PROXY")),
        ("TLS: unable to get issuer certificate", distrust(2), ("as OpenSSL says", "CA_BUNDLE holds no", "root")),
    ],
)  # fmt: skip
def test_what_a_setting_mends_names_it(told: str, cause: BaseException | None, words: tuple[str, ...]) -> None:
    """A client certificate, the proxy, and a CA_BUNDLE that is set but holds only an authority in between."""
    error = errors.Unsent(told) if cause is None else caused(errors.Unsent(told), cause)
    finding = diagnosis.unreachable(error, API, proxied=False, bundled=True)
    assert (finding.mark, finding.code) == ("failure", 78)
    assert [word for word in words if word not in f"{finding.text} {finding.remedy}"] == []


def test_a_proxy_in_between_is_named() -> None:
    """A refused connection may be the proxy's: both are told."""
    finding = diagnosis.unreachable(
        caused(errors.Unsent("x"), ConnectionRefusedError(111, "no")), API, proxied=True, bundled=False
    )
    assert "(or the proxy)" in finding.text
    assert "HTTPS_PROXY" in finding.remedy


def test_a_connection_without_an_answer_is_left_to_later_checks() -> None:
    """Some servers drop HEAD requests: that alone must not keep the true question from being asked."""
    assert (
        diagnosis.unreachable(errors.Ambiguous("no answer within 5 s"), API, proxied=False, bundled=False).mark
        == "warning"
    )


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.Unauthorized("the task API answered 403"), 78, ("403", "OAUTH2_SCOPE")),
        (errors.Misconfigured("the task API answered 404"), 78, ("404", "API_BASE_URL")),
        (errors.InvalidAnswer("the answer is not a JSON array"), 78, ("not a JSON array", "API_BASE_URL")),
        (errors.Transient("the task API answered 503"), 69, ("503", "task API", "API_BASE_URL")),
        (errors.Throttled("the task API answered 429"), 69, ("429",)),
        (errors.Ambiguous("no answer within 30 s"), 69, ("no answer",)),
        (caused(errors.NoToken("no token: x"), errors.Transient("the token endpoint answered 500")), 69, ("500",)),
    ],
)
def test_a_refusal_says_whose_fault_it_is(error: Exception, code: int, words: tuple[str, ...]) -> None:
    """What a setting mends is 78 and names it; what the remote must mend is 69 and names the remote."""
    finding = diagnosis.refused(error, API, {errors.Unauthorized: "OAUTH2_SCOPE"})
    assert (finding.mark, finding.code) == ("failure", code)
    assert [word for word in words if word not in f"{finding.text} {finding.remedy}"] == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.Unauthorized("401"), "OPENAI_API_KEY"),
        (errors.ModelRefused("unknown"), "DEFAULT_EMBEDDING_MODEL, MODEL_ALIASES or OPENAI_BASE_URL"),
        (errors.InputRefused("input_refused"), "DEFAULT_EMBEDDING_MODEL"),
        (errors.QuotaExhausted("empty"), "billing"),
        (errors.Misconfigured("404"), "OPENAI_BASE_URL"),
    ],
)
def test_each_refusal_of_a_model_has_its_remedy(error: Exception, words: str) -> None:
    """Key, model, money and address are told apart."""
    model = Remote("model API", "OPENAI_BASE_URL", "https://models.example.com")
    finding = diagnosis.refused(error, model, diagnosis.MODEL_REMEDIES, about="some-model: ")
    assert finding.code == 78
    assert finding.text.startswith("some-model: ")
    assert words in finding.remedy


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
    """The registered codes lead to the settings that they are about."""
    remedy = token_remedy(f"the token endpoint refuses the client: {code}", auth())
    assert [word for word in words if word not in remedy] == []


def test_a_client_with_a_key_is_not_sent_to_its_secret() -> None:
    """With private_key_jwt it is the key and the issuer that may be wrong."""
    remedy = token_remedy("invalid_client", auth("private_key_jwt"))
    assert "OAUTH2_PRIVATE_KEY_FILE" in remedy
    assert "OAUTH2_CLIENT_SECRET" not in remedy


@pytest.mark.parametrize(
    ("problem", "text", "remedy"),
    [
        ("A_NAME is missing: set it to the base URL", "A_NAME is missing", "set A_NAME to the base URL"),
        ("A_NAME must be one of a, b", "A_NAME must be one of a, b", "correct A_NAME"),
        ("A_NAME names an empty file: write the secret into it", "A_NAME names an empty file",
         "A_NAME: write the secret into it"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_variable_in_the_remedy(problem: str, text: str, remedy: str) -> None:
    """What is wrong on one line, what to do on the next, which can be read alone."""
    assert diagnosis.mistake(problem) == Finding("failure", text, remedy, 78)


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([], 0), ([69], 69), ([69, 73], 73), ([73, 78, 69], 78), ([69, 69], 69)],
)
def test_the_most_specific_code_wins(codes: list[int], expected: int) -> None:
    """78 before 73 before 69; warnings and skipped checks are no failure."""
    harmless = [report.ok("x"), report.warning("x", "y"), report.skipped("x")]
    assert report.exit_code([*harmless, *(Finding("failure", "x", "y", code) for code in codes)]) == expected


def test_the_verdict_counts() -> None:
    """Problems are counted; without any it says what to do next, and how many warnings to read first."""
    bad, warned = report.wrong("x", "y"), report.warning("x")
    assert report.verdict([bad, warned]) == "1 problem found"
    assert report.verdict([bad, report.skipped("x"), bad]) == "2 problems found"
    assert report.verdict([warned, warned]) == "Ready, with 2 warnings: start with `ai-task-processor run`"
    assert report.verdict([report.ok("x")], daemon_running=True) == "Ready: a daemon is running"


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
    assert report.shown(names) == expected


def test_the_list_is_counted_by_what_can_be_done() -> None:
    """Seen, able, foreign and unusable add up."""
    page = Page(
        tasks={str(n): Task(id=str(n), type="odd" if n else TaskType.TEXT_EMBEDDING, content=None) for n in range(4)}
    )
    page.skipped["invalid"] = 2
    able, foreign, invalid = diagnosis.listed(page, lambda task: task.type == TaskType.TEXT_EMBEDDING, "5 ms")
    assert able == report.ok("tasks seen: 6 (the head of the list), can be processed here: 1 (5 ms)")
    assert (foreign.mark, foreign.text) == ("warning", "3 are of types without a processor here: odd")
    assert "TASK_ID_PATTERN" in invalid.remedy


@pytest.mark.parametrize(
    ("status", "content_type", "mark", "code"),
    [
        (200, "application/json", "ok", 0),
        (404, "application/json", "warning", 0),
        (200, "text/html; charset=utf-8", "failure", 78),
        (404, "text/html", "failure", 78),
    ],
)
def test_a_model_counts_as_accepted_only_on_a_true_answer(status: int, content_type: str, mark: str, code: int) -> None:
    """A web page is no model API, and a 404 for the card of a model proves nothing."""
    model = Remote("model API", "OPENAI_BASE_URL", "https://models.example.com")
    model.note(Answer(status, {"content-type": content_type}), NOW)
    finding = diagnosis.accepted("some-model", model, "5 ms")
    assert (finding.mark, finding.code) == (mark, code)
    assert mark == "ok" or "OPENAI_BASE_URL" in finding.remedy


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
    seen = Remote("task API", "API_BASE_URL", "https://api.example.com")
    seen.note(Answer(200, headers), NOW)
    assert seen.skew_s == expected


@pytest.mark.parametrize(
    ("skew", "mark", "word"),
    [(None, "skipped", "no date"), (29.0, "ok", "29 s"), (31.0, "warning", "behind"), (-31.0, "warning", "ahead")],
)
def test_thirty_seconds_of_skew_are_too_much(skew: float | None, mark: str, word: str) -> None:
    """Beyond it a warning says which way to turn the clock, and that NTP does it."""
    finding = diagnosis.clock_finding("task API", skew)
    assert finding.mark == mark
    assert word in finding.text
    assert ("NTP" in finding.remedy) == (mark == "warning")


@pytest.mark.parametrize(("days", "mark"), [(15, "ok"), (13, "warning")])
def test_a_certificate_that_ends_soon_is_a_warning(days: int, mark: str) -> None:
    """The days that remain are told, and less than fourteen are worth a word."""
    ends = (NOW + timedelta(days=days, hours=1)).strftime("%b %d %H:%M:%S %Y GMT")
    finding = diagnosis.certificate({"notAfter": ends}, NOW.timestamp(), "api.example.com answers TLSv1.3")
    assert finding.mark == mark
    assert f"expires in {days} days" in finding.text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "full"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (errors.DataDirectoryError("DATA_DIR /data cannot be used (x): give it to user 7"), "cannot be used (x)"),
    ],
)
def test_a_data_directory_that_cannot_be_used_is_73(error: OSError | errors.DataDirectoryError, words: str) -> None:
    """Full, read-only or somebody else's: the remedy is about DATA_DIR."""
    finding = diagnosis.no_room(error, Path("/data"))
    assert (finding.mark, finding.code) == ("failure", 73)
    assert words in finding.text
    assert "DATA_DIR" in finding.remedy


def test_what_is_kept_and_what_is_free() -> None:
    """Little room and dead letters are warnings, waiting results are none."""
    records = {"waiting": 7, "dead": 2}
    found = list(diagnosis.kept(Path("/data"), daemon=True, free=2**20, growth=2**30, records=records))
    assert [finding.mark for finding in found] == ["ok", "warning", "ok", "warning"]
    assert "a daemon is running" in found[0].text
    assert "OUTBOX_MAX_BYTES" in found[1].remedy
    assert [finding.mark for finding in diagnosis.kept(Path("/d"), daemon=False, free=2, growth=1, records={})] == [
        "ok"
    ]


def test_looking_at_a_directory_leaves_it_empty(tmp_path: Path) -> None:
    """It is made when it is missing, and nothing stays in it."""
    daemon, (found,) = patient.look_at(tmp_path / "new" / "data", 2**16)
    assert (daemon, found.mark) == (False, "ok")
    assert list((tmp_path / "new" / "data").iterdir()) == []


def answering(*findings: Finding) -> Check:
    async def work() -> AsyncIterator[Finding]:
        for finding in findings:
            yield finding

    return Check("answering", work, "SOME_SETTING")


async def told(*checks: Check, deadline_s: float = 5.0) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    await examination.run(checks, lambda title, finding, _: lines.append((title, finding.mark)), deadline_s)
    return lines


async def test_what_depends_on_a_failure_is_skipped_and_the_rest_goes_on() -> None:
    """Skipping is passed on to those who need the skipped; the independent are still made."""
    first = Check("first", answering(report.ok("x"), report.wrong("y", "z")).work, "S")
    second = Check("second", answering(report.ok("x")).work, "S", ("first",))
    third = Check("third", answering(report.ok("x")).work, "S", ("second",))
    other = Check("other", answering(report.warning("x")).work, "S")
    last = Check("last", answering(report.ok("x")).work, "S", ("other",))
    lines = await told(first, second, third, other, last)
    assert lines == [
        ("first", "ok"), ("first", "failure"), ("second", "skipped"), ("third", "skipped"),
        ("other", "warning"), ("last", "ok"),
    ]  # fmt: skip


async def test_a_check_that_hangs_ends_at_its_deadline() -> None:
    """It counts as a failure of its own kind, what it had found stays told, and the next one is made."""

    async def hang() -> AsyncIterator[Finding]:
        yield report.ok("so far")
        await asyncio.Event().wait()

    codes: list[int] = []
    disk = Check("disk", hang, "DATA_DIR", late=report.unusable)
    await examination.run([disk, answering(report.ok("x"))], lambda _, finding, __: codes.append(finding.code), 0.01)
    assert codes == [0, 73, 0]


async def test_blocking_work_is_done_aside() -> None:
    """Its value and its error come back to the loop."""
    assert await patient.aside(lambda: 7) == 7
    with pytest.raises(OSError, match="full"):
        await patient.aside(lambda: (_ for _ in ()).throw(OSError("full")))


async def test_whoever_stops_waiting_leaves_the_thread_in_peace() -> None:
    """A deadline ends the waiting; the thread ends later, on its own, without a word."""
    end = threading.Event()
    before = set(threading.enumerate())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await patient.aside(end.wait)
    (thread,) = set(threading.enumerate()) - before
    end.set()
    thread.join(5)
    assert thread.daemon


def on_screen(*, terminal: bool = False, encoding: str = "utf-8") -> tuple[Report, io.BytesIO]:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding, write_through=True)
    return Report(Console(file=file, force_terminal=terminal, highlight=False, width=40, _environ={})), raw


def test_a_finding_is_one_line_and_its_remedy_another() -> None:
    """However narrow the screen: long lines are the terminal's to wrap, so that grep finds them whole."""
    target, raw = on_screen()
    target.add("token", report.wrong("w" * 60 + " [bold]x[/bold]", "change SOME_SETTING"), "somebody")
    assert target.close("1 problem found") == 78
    first, second, last = raw.getvalue().decode().splitlines()
    assert first == f"✗ token           somebody: {'w' * 60} [bold]x[/bold]"
    assert (second, last) == ("    change SOME_SETTING", "1 problem found")


def test_colours_are_for_terminals() -> None:
    """Escape codes reach a terminal, and nothing else."""
    for terminal in (True, False):
        target, raw = on_screen(terminal=terminal)
        target.add("token", report.ok("fine"))
        assert (b"\x1b[" in raw.getvalue()) == terminal


def test_ascii_screens_get_ascii() -> None:
    """Signs have stand-ins, and what cannot be shown becomes a question mark instead of a crash."""
    target, raw = on_screen(encoding="ascii")
    target.add("data directory", report.unusable("/dät\x07a cannot be written", "change DATA_DIR"))
    assert raw.getvalue().decode("ascii").splitlines()[0] == "x data directory  /d?t?a cannot be written"


def test_secrets_are_masked_wherever_they_stand() -> None:
    """Finding, remedy and verdict pass the same mask as the logs."""
    target, raw = on_screen()
    target.mask = Masker(["planted-secret"])
    target.add("token", report.wrong("it says planted-secret", "not planted-secret"), "planted-secret")
    target.close("planted-secret")
    assert raw.getvalue().count(b"***") == 4
    assert b"planted" not in raw.getvalue()


OLDER = "token_unavailable: the token endpoint refuses the client: invalid_client"
UNACKNOWLEDGED = "results_refused: the task API answers results with the task as it was: return the updated one"


@pytest.mark.parametrize(
    ("reasons", "granted", "marks", "words"),
    [
        ([], True, [], ()),
        (["starting"], True, [], ()),
        ([OLDER], True, ["failure"], ("older secret", "invalid_client", "SIGHUP")),
        ([OLDER], False, ["warning"], ("invalid_client",)),
        (["token_unavailable: connection refused"], True, ["warning"], ("connection refused",)),
        ([UNACKNOWLEDGED], True, ["failure"], ("as it was", "return the updated one")),
        (["outbox_full", UNACKNOWLEDGED], True, ["warning", "failure"], ("outbox_full",)),
    ],
)
def test_what_the_daemon_beside_says_is_told(
    reasons: list[str], granted: bool, marks: list[str], words: tuple[str, ...]
) -> None:
    """A secret that is older than ours, results that nobody acknowledges: failures; the rest is passed on."""
    found = list(diagnosis.reported({"not_ready_because": reasons}, granted=granted))
    assert [finding.mark for finding in found] == marks
    told = " ".join(f"{finding.text} {finding.remedy}" for finding in found)
    assert [word for word in words if word not in told] == []


@pytest.mark.parametrize(
    "status", [None, [], {}, {"not_ready_because": 7}, {"not_ready_because": [None, ["a" * 9999]]}]
)
def test_a_strange_status_is_no_trouble(status: object) -> None:
    """Another server may listen there."""
    assert all(len(finding.text) < 400 for finding in diagnosis.reported(status, granted=True))


def test_a_redirect_is_explained_by_its_own_remedy() -> None:
    """Whether or not a web page comes with it."""
    page = Remote("task API", "API_BASE_URL", "http://api.example.com", page=True)
    error = errors.Misconfigured(
        "the task API answered 308, a redirect to https://api.example.com: use https in X", status=308
    )
    finding = diagnosis.refused(error, page, {})
    assert (finding.text, finding.remedy) == (
        "the task API answered 308, a redirect to https://api.example.com",
        "use https in X",
    )
