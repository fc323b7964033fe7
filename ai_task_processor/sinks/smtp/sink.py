"""Hands mails over to a server, and remembers which it took or refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Finding, Remote, Stopwatch, ok
from ai_task_processor.core.errors import Misconfigured, RemoteError, TimedOut, Transient, Unauthorized, Unsent
from ai_task_processor.models.task import Record, TaskStatus
from ai_task_processor.net.client import deadline
from ai_task_processor.net.services import Services
from ai_task_processor.net.tls import shared_tls
from ai_task_processor.net.transport_errors import describe
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.sinks.base import Refused, RemoteSink, result
from ai_task_processor.sinks.smtp.message import completed, fields, message
from ai_task_processor.sinks.smtp.settings import SmtpSettings

if TYPE_CHECKING:
    from aiosmtplib import SMTP, SMTPResponseException

#: for one message, and for QUIT after it, in seconds
TIMEOUT_S, QUIT_S = 30.0, 2.0
#: connections at once: servers limit them for each client
CONNECTIONS = 4
#: the last messages that were sent or refused for good, so that they are not offered again
REMEMBERED = 10_000
#: authentication required, too weak, failed, only over TLS (RFC 4954 §6)
LOGIN_CODES = frozenset({530, 534, 535, 538})

log = get_logger(__name__)


def explained(error: Exception, *, bundled: bool) -> RemoteError | Refused:
    """The error for one of aiosmtplib's or of the operating system. ``bundled``: CA_BUNDLE is set."""
    import aiosmtplib as smtp

    match error:
        case smtp.SMTPRecipientsRefused():
            return _answered(error.recipients[0])
        case smtp.SMTPResponseException():
            return _answered(error)
        case smtp.SMTPNotSupported():
            return Refused("the mail server takes only addresses in ASCII")
        case TimeoutError():
            return TimedOut("the mail server does not answer in time")
        case smtp.SMTPServerDisconnected():
            return Transient("the mail server closed the connection")
        case smtp.SMTPException() if not isinstance(error, OSError):
            lacking = "AUTH: remove the user from" if "AUTH" in str(error) else "STARTTLS: use smtps in"
            return Misconfigured(f"the mail server offers no {lacking} SMTP_URL")
    return Unsent(f"no connection to the mail server ({describe(error, bundled=bundled)})")


def _answered(error: "SMTPResponseException") -> RemoteError | Refused:
    """5xx is final (RFC 5321 §4.2.1): about the login, the sender, or one message."""
    import aiosmtplib as smtp

    code = error.code
    if code in LOGIN_CODES:
        return Unauthorized(f"the mail server refuses the login ({code}): correct user and password in SMTP_URL")
    final = code >= 500
    match error:
        case smtp.SMTPRecipientRefused():
            text = f"the mail server refuses the recipient ({code})"
            return Refused(text) if final else RemoteError(text, status=code)
        case smtp.SMTPDataError() if final:
            return Refused(f"the mail server refuses the message ({code})")
        case smtp.SMTPSenderRefused() if final:
            return Misconfigured(f"the mail server refuses the sender ({code}): correct SMTP_FROM")
    return Transient(f"the mail server answers {code}", status=code)


class SmtpSink(RemoteSink):
    """A mail for each result that is one."""

    name = "smtp"
    order = "after_report"
    settings_groups = (SmtpSettings,)

    def __init__(self, services: Services) -> None:
        settings = services.settings[SmtpSettings]
        server = settings.server
        remote = Remote("mail server", "SMTP_URL", server.shown) if server else None
        super().__init__(services, settings, remote, "aiosmtplib")
        self._network = services.settings.network
        self._lookups = services.lookups
        self._connections = asyncio.Semaphore(CONNECTIONS)

    def _takes(self, record: Record) -> bool:
        return fields(record) is not None

    async def write(self, record: Record) -> None:
        # Before the circuit of the mail server: a failure of a look-up says nothing about that.
        record = await self._completed(record)
        async with self._connections:
            await super().write(record)

    async def _completed(self, record: Record) -> Record:
        """With what the result lacks: subject and text, and the address if its source looks one up.

        Raises ``RemoteError``.
        """
        settings, look_up = self._secrets[SmtpSettings], self._lookups.get("email")
        if self._remote is None or record.status is not TaskStatus.SUCCEEDED:
            return record
        found = result(record)
        if not isinstance(found, dict):
            return record
        found = completed(found, settings.subject, settings.text)
        if look_up is not None and {"subject", "text"} <= found.keys() and not {"to", "email"} & found.keys():
            address = await look_up(found)
            if address is None:
                log.warning("mail.skipped", task_id=record.task_id, reason="the source knows no address")
            else:
                found["to"] = address
        return replace(record, body=codec.dumps(found), vector=None)

    async def _send(self, record: Record) -> None:
        import aiosmtplib

        async with self._connected() as connection:
            await connection.send_message(message(record, self._secrets[SmtpSettings].sender or ""))
            with suppress(aiosmtplib.SMTPException, OSError):  # the server has the mail
                await connection.quit(timeout=QUIT_S)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator["SMTP"]:
        """A connection, encrypted and logged in. Raises ``RemoteError`` and ``Refused``, for the block too."""
        import aiosmtplib

        server = self._secrets[SmtpSettings].server
        assert server is not None  # noqa: S101 - called only when the sink is on
        tls = shared_tls(self._network) if server.encrypted or not server.local else None
        connection = aiosmtplib.SMTP(
            hostname=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_tls=server.encrypted,
            start_tls=not server.encrypted and not server.local,
            tls_context=None if tls is None else tls.context,
            timeout=TIMEOUT_S,
        )
        try:
            async with deadline(TIMEOUT_S):
                await connection.connect()
                yield connection
        except (aiosmtplib.SMTPException, OSError) as error:
            raise explained(error, bundled=self._network.ca_bundle is not None) from error
        finally:
            connection.close()

    async def _access(self) -> Finding:
        watch = Stopwatch()
        async with self._connected() as connection:
            await connection.quit(timeout=QUIT_S)
        user = " and takes the login" if (server := self._secrets[SmtpSettings].server) and server.user else ""
        return ok(f"it answers{user} ({watch})")
