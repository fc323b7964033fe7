"""The mail sink and a mail server: refusals, repetitions, TLS."""

from pathlib import Path

import pytest

from ai_task_processor.core import syntax
from ai_task_processor.core.errors import Misconfigured, Rejected, RemoteError, Unsent
from ai_task_processor.sinks.smtp.sink import SmtpSink
from ai_task_processor.testing.store import record
from tests.contract.http.servers import Authority
from tests.contract.sinks.servers import HOST, free_port, mail_server
from tests.helpers import alive, services

MAIL = record("a", body=b'{"to":"a@example.org","subject":"S","text":"T"}')


def environ(port: int, **changes: str) -> dict[str, str]:
    return {"SMTP_URL": f"smtp://{HOST}:{port}", "SMTP_FROM": "us@example.com", **changes}


async def test_a_mail_that_is_repeated_has_the_same_id() -> None:
    """In another process, too, as after a kill."""
    port = free_port()
    async with mail_server(port) as box:
        for _ in range(2):
            async with alive(SmtpSink(services(environ(port), SmtpSink))) as sink:
                await sink.write(MAIL)
    assert len(box.mails) == 2
    assert len({mail["Message-ID"] for mail in box.mails}) == 1


@pytest.mark.parametrize(
    ("answer", "error"), [("550 no such user", Rejected), ("450 greylisted", RemoteError)], ids=["5xx", "4xx"]
)
async def test_a_refused_recipient_stops_no_other(answer: str, error: type[Exception]) -> None:
    """5xx is final, 4xx is not. Neither pauses the sink, and nothing of the answer is shown."""
    port = free_port()
    shared = services(environ(port), SmtpSink)
    async with mail_server(port) as box, alive(SmtpSink(shared)) as sink:
        box.refused = answer
        with pytest.raises(error, match=rf"^the mail server refuses the recipient \({answer[:3]}\)$"):
            await sink.write(MAIL)
        assert shared.gates["smtp"].reason is None
        box.refused = ""
        await sink.write(record("b", body=MAIL.body))
        await sink.write(MAIL)
    assert len(box.mails) == 2


async def test_mail_leaves_this_machine_only_under_tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server elsewhere must offer STARTTLS, with a certificate of an authority that is trusted here."""
    monkeypatch.setattr(syntax, "plain_http", lambda _: "private")  # wherever it stands
    authority, port, plain = Authority(tmp_path), free_port(), free_port()
    trusted = {"CA_BUNDLE": str(authority.pem)}
    async with mail_server(port, starttls=authority.context()) as box, mail_server(plain) as other:
        async with alive(SmtpSink(services(environ(port, **trusted), SmtpSink))) as sink:
            await sink.write(MAIL)
        async with alive(SmtpSink(services(environ(port), SmtpSink))) as sink:
            with pytest.raises(Unsent, match="set CA_BUNDLE to your authority's PEM file"):
                await sink.write(MAIL)
        async with alive(SmtpSink(services(environ(plain, **trusted), SmtpSink))) as sink:
            with pytest.raises(Misconfigured, match="offers no STARTTLS"):
                await sink.write(MAIL)
    assert (len(box.mails), len(other.mails)) == (1, 0)
