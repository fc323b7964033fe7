"""The mail that a result becomes."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import parseaddr

from ai_task_processor.models.task import Record
from ai_task_processor.sinks.base import Refused, event_id, result
from ai_task_processor.sinks.smtp.settings import ADDRESS

_PLACE = re.compile(r"\{(\w+)\}")


def completed(found: Mapping[str, object], subject: str | None, text: str | None) -> dict[str, object]:
    """A result with the subject and the text that it lacks, from templates: ``{name}`` is a field of the result.

    A template with a field that the result has not adds nothing. What is inserted is no template again.
    """
    filled = dict(found)
    for name, template in (("subject", subject), ("text", text)):
        if template is not None and found.keys() >= set(_PLACE.findall(template)):
            filled.setdefault(name, _PLACE.sub(lambda place: str(found[place[1]]), template))
    return filled


def fields(record: Record) -> tuple[str, str, str] | None:
    """Recipient, subject and text; None when the result is no mail."""
    found = result(record)
    if not isinstance(found, dict):
        return None
    to, subject, text = found.get("to", found.get("email")), found.get("subject"), found.get("text")
    if isinstance(to, str) and isinstance(subject, str) and isinstance(text, str):
        return to, subject, text
    return None


def message(record: Record, sender: str) -> EmailMessage:
    """The mail. Raises ``Refused`` when an address is none, or the result is no mail.

    No field can add a header or a recipient: an address is matched as a whole, and control characters, line breaks
    among them, become blanks in the subject. (``EmailMessage`` would refuse them.)
    """
    to, subject, text = fields(record) or ("", "", "")
    if not ADDRESS.fullmatch(to):
        raise Refused("the recipient of a message is no e-mail address")
    name, address = parseaddr(sender)
    mail = EmailMessage(policy=policy.SMTP)
    try:
        mail["From"] = Address(name, addr_spec=address)
        mail["To"] = Address(addr_spec=to)
        mail["Subject"] = " ".join("".join(each if each.isprintable() else " " for each in subject).split())
        mail["Date"] = datetime.fromtimestamp(record.finished_at, UTC)
        mail["Message-ID"] = f"<{event_id(record)}@{address.rpartition('@')[2]}>"
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer by a machine
        mail.set_content(text)
    except ValueError as error:
        raise Refused("a message cannot be written as e-mail") from error
    return mail
