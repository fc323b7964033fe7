"""The mail sink and a mail server: refusals, repetitions, TLS."""

from dataclasses import replace
from pathlib import Path

import pytest

from ai_task_processor.core import syntax
from ai_task_processor.core.errors import Misconfigured, RemoteError, Unsent
from ai_task_processor.sinks.base import REFUSED_AGAIN_S
from ai_task_processor.sinks.smtp.sink import SmtpSink
from ai_task_processor.testing.store import record
from tests.contract.http.servers import Authority
from tests.contract.sinks.servers import HOST, free_port, mail_server
from tests.helpers import alive, services

MAIL = record("a", body=b'{"to":"a@example.org","subject":"S","text":"T"}')


def environ(port: int, **changes: str) -> dict[str, str]:
    return {"SMTP_URL": f"smtp://{HOST}:{port}", "SMTP_FROM": "us@example.com", **changes}


async def test_a_mail_is_sent_once_and_again_for_another_result() -> None:
    """A repetition, because a later sink failed for instance, is no second mail; a task that is done again is one.

    Another process may repeat a mail: then it has the same id.
    """
    port = free_port()
    async with mail_server(port) as box:
        for _ in range(2):
            async with alive(SmtpSink(services(environ(port), SmtpSink))) as sink:
                for each in (MAIL, MAIL):
                    await sink.write(each)
        assert len(box.mails) == 2
        async with alive(SmtpSink(services(environ(port), SmtpSink))) as sink:
            await sink.write(replace(MAIL, finished_at=MAIL.finished_at + 1))
    assert len(box.mails) == 3
    assert len({mail["Message-ID"] for mail in box.mails}) == 1


@pytest.mark.parametrize(("answer", "offered"), [("550 no such user", 1), ("450 greylisted", 3)])
async def test_a_refused_recipient_is_kept_and_stops_no_other(answer: str, offered: int) -> None:
    """5xx is not repeated before SIGHUP, 4xx is. Neither pauses the sink, and nothing of the answer is shown."""
    port = free_port()
    shared = services(environ(port), SmtpSink)
    async with mail_server(port) as box, alive(SmtpSink(shared)) as sink:
        box.refused = answer
        for _ in range(3):
            with pytest.raises(
                RemoteError, match=rf"^the mail server refuses the recipient \({answer[:3]}\)$"
            ) as raised:
                await sink.write(MAIL)
        assert raised.value.retry_after_s == (REFUSED_AGAIN_S if offered == 1 else None)
        assert len(box.recipients) == offered
        assert shared.gates["smtp"].reason is None
        box.refused = ""
        await sink.write(record("b", body=MAIL.body))
        await sink.reload()
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
