"""The settings of the mail sink: server and sender."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from email.utils import parseaddr
from typing import Annotated
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, SecretStr

from ai_task_processor.core import syntax
from ai_task_processor.core.groups import setting
from ai_task_processor.sinks.base import SinkSettings

PORTS = {"smtp": 587, "smtps": 465}
#: nothing that ends an address, separates two, or quotes
_PART = r"[^\s@<>()\[\]\\,;:\"\x00-\x20\x7f]"
ADDRESS = re.compile(f"{_PART}{{1,64}}@{_PART}{{1,255}}")


@dataclass(frozen=True, slots=True)
class Server:
    """Where mail is handed over. ``encrypted``: TLS from the first byte. ``local``: this machine, which needs none."""

    host: str
    port: int
    encrypted: bool
    local: bool
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str) -> "Server":
        """Raises ``ValueError``."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        plain = f"http://{f'[{host}]' if ':' in host else host}"
        rest = parts.path.strip("/") or parts.query or parts.fragment
        if parts.scheme not in PORTS or rest or (parts.username is None) != (parts.password is None):
            raise ValueError
        return cls(
            host=host,
            port=parts.port or PORTS[parts.scheme],
            encrypted=parts.scheme == "smtps",
            local=syntax.plain_http(syntax.endpoint_url(plain)) is None,
            user=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
        )

    @property
    def shown(self) -> str:
        """Its URL, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'smtps' if self.encrypted else 'smtp'}://{host}:{self.port}"


def _server_url(text: str) -> str:
    try:
        Server.of(text)
    except ValueError:
        raise ValueError("must be like smtp://user:password@host:587 or smtps://…, percent-encoded") from None
    return text


def _sender(text: str) -> str:
    if text.count("@") != 1 or not ADDRESS.fullmatch(parseaddr(text)[1]):
        raise ValueError("must be an address such as reminders@example.com or Reminders <reminders@example.com>")
    return text


class SmtpSettings(SinkSettings):
    """The mail server and the sender."""

    sink = "smtp"
    address = "SMTP_URL"
    needs = ("SMTP_FROM",)

    url: Annotated[SecretStr, BeforeValidator(_server_url)] | None = setting(
        "SMTP_URL",
        "the mail server, like smtp://user:password@host:587; the sink smtp is off without it",
        note="With STARTTLS, or smtps://; what is special in user and password in percent-encoding.",
    )
    sender: Annotated[str, AfterValidator(_sender)] | None = setting("SMTP_FROM", "the address that mail comes from")
    subject: str | None = setting(
        "SMTP_SUBJECT",
        "the subject of mails; {name} in it is a field of the result",
        note="For results without a subject.",
    )
    text: str | None = setting("SMTP_TEXT", "the text of mails; {name} in it is a field of the result")

    def secrets(self) -> Iterable[str]:
        """Only the password, percent-encoded and decoded: the address may be shown."""
        password = urlsplit(self.url.get_secret_value()).password if self.url else None
        return [password, unquote(password)] if password else []

    @property
    def server(self) -> Server | None:
        return Server.of(self.url.get_secret_value()) if self.url else None
