"""Which results are mails, what a mail looks like, and where it is handed over."""

import json

import pytest

from ai_task_processor.core.errors import Transient
from ai_task_processor.models.task import Record
from ai_task_processor.sinks.base import Refused, event_id
from ai_task_processor.sinks.smtp.message import completed, fields, message
from ai_task_processor.sinks.smtp.settings import Server, SmtpSettings
from ai_task_processor.sinks.smtp.sink import SmtpSink
from ai_task_processor.testing.store import record
from tests.helpers import services

FROM = "Reminders <reminders@example.com>"
MAIL = {"to": "a@example.org", "subject": "Due soon: write", "text": "Write it\nby noon.\n"}
INJECTED = [f"{end}Bcc: x@example.net" for end in ("\r\n", "\n", "\r", "\r\n\r\n", "\x00", "\x0b", "\u2028", "\x85")]


def mail(**changes: object) -> bytes:
    """As it is sent."""
    return message(record("a", body=json.dumps({**MAIL, **changes}).encode()), FROM).as_bytes()


def test_a_mail_is_plain_text_with_a_stable_id() -> None:
    assert mail() == (
        b"From: Reminders <reminders@example.com>\r\n"
        b"To: a@example.org\r\n"
        b"Subject: Due soon: write\r\n"
        b"Date: Fri, 15 Jan 2027 07:59:50 +0000\r\n"
        b"Message-ID: <%s@example.com>\r\n"
        b"Auto-Submitted: auto-generated\r\n"
        b'Content-Type: text/plain; charset="utf-8"\r\n'
        b"Content-Transfer-Encoding: 7bit\r\n"
        b"MIME-Version: 1.0\r\n"
        b"\r\n"
        b"Write it\r\nby noon.\r\n" % str(event_id(record("a"))).encode()
    )


@pytest.mark.parametrize("text", INJECTED, ids=ascii)
def test_no_field_adds_a_header_or_a_recipient(text: str) -> None:
    """Subjects keep one line, whatever is a line break to whom; an address with anything else in it is refused."""
    head = mail(subject=f"S{text}").partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert [line.partition(b":")[0] for line in head] == [
        line.partition(b":")[0] for line in mail().partition(b"\r\n\r\n")[0].split(b"\r\n")
    ]
    for to in (f"a@example.org{text}", f"{text}a@example.org"):
        with pytest.raises(Refused):
            mail(to=to)


@pytest.mark.parametrize("to", ["", "a", "a@b@c", "a@b, c@d", "a@b;c@d", "<a@b>", "A <a@b>", '"a b"@c', "a@", "a @b"])
def test_an_address_is_one_plain_address(to: str) -> None:
    with pytest.raises(Refused):
        mail(to=to)


@pytest.mark.parametrize(
    "body", [b"[1]", b'"a"', b"{}", b'{"to":"a@b.c","subject":"S"}', b'{"to":["a@b.c"],"subject":"S","text":"T"}']
)
def test_a_result_without_these_fields_is_no_mail(body: bytes) -> None:
    assert fields(record("a", body=body)) is None


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"title": "Rent"}, {"subject": "Due soon: Rent", "text": "At noon."}),
        ({"title": "{text}"}, {"subject": "Due soon: {text}", "text": "At noon."}),
        ({"title": "Rent", "subject": "My own"}, {"subject": "My own", "text": "At noon."}),
        ({}, {"text": "At noon."}),
    ],
)
def test_what_a_result_lacks_comes_from_templates(found: dict[str, object], expected: dict[str, object]) -> None:
    """What is inserted is no template again; a template with an unknown field adds nothing."""
    assert completed(found, "Due soon: {title}", "At noon.") == {**found, **expected}
    assert completed(found, None, None) == found


@pytest.mark.parametrize(
    ("body", "address", "sent_to", "asked"),
    [
        (b'{"user":7}', "a@example.org", ["a@example.org"], 1),
        (b'{"user":7}', None, [], 1),
        (b'{"to":"b@example.org"}', "a@example.org", ["b@example.org"], 0),
        (b'{"text":7}', "a@example.org", [], 1),
        (b"[1]", "a@example.org", [], 0),
    ],
)
async def test_an_address_is_looked_up_for_a_result_that_has_none(
    body: bytes, address: str | None, sent_to: list[str], asked: int
) -> None:
    seen, offered = list[object](), list[str]()

    async def look_up(found: object) -> str | None:
        seen.append(found)
        return address

    async def send(record: Record) -> None:
        offered.append(message(record, FROM)["To"])

    environ = {"SMTP_URL": "smtp://localhost", "SMTP_FROM": FROM, "SMTP_SUBJECT": "S", "SMTP_TEXT": "T"}
    sink = SmtpSink(services(environ, SmtpSink, lookups={"email": look_up}))
    sink._send = send  # type: ignore[method-assign]  # no server
    await sink.write(record("a", body=body))
    assert (offered, len(seen)) == (sent_to, asked)


async def test_a_failed_look_up_is_no_evidence_about_the_mail_server() -> None:
    """It is the sink's failure, and its circuit stays closed."""

    async def look_up(found: object) -> str | None:
        raise Transient("the task API answered 500")

    environ = {"SMTP_URL": "smtp://localhost", "SMTP_FROM": FROM}
    given = services(environ, SmtpSink, lookups={"email": look_up})
    sink = SmtpSink(given)
    for _ in range(10):
        with pytest.raises(Transient):
            await sink.write(record("a", body=b'{"subject":"S","text":"T"}'))
    assert given.gate("smtp").wait_s() == 0


def test_email_is_another_name_of_to() -> None:
    found = message(record("a", body=b'{"email":"b@example.org","subject":"\\u00fc","text":"T"}'), FROM)
    assert (found["To"], found["Subject"]) == ("b@example.org", "ü")


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("smtp://localhost", Server("localhost", 587, encrypted=False, local=True)),
        ("smtp://127.0.0.1:25/", Server("127.0.0.1", 25, encrypted=False, local=True)),
        ("smtp://[::1]:25", Server("::1", 25, encrypted=False, local=True)),
        ("smtp://mail.internal", Server("mail.internal", 587, encrypted=False, local=False)),
        ("smtps://u%40x:p%2F@mail.example.com", Server("mail.example.com", 465, True, False, "u@x", "p/")),
    ],
)
def test_a_server_is_what_its_url_says(url: str, server: Server) -> None:
    """Only this machine gets mail without TLS."""
    assert Server.of(url) == server


def test_only_the_password_is_a_secret() -> None:
    environ = {"SMTP_URL": "smtp://user:p%2Fssword@mail.example.com", "SMTP_FROM": FROM}
    settings = services(environ, SmtpSink).settings
    assert set(settings[SmtpSettings].secrets()) == {"p%2Fssword", "p/ssword"}
    assert "ssword" not in repr(Server.of(environ["SMTP_URL"]))
