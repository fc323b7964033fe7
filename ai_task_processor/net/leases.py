"""Claims that live as long as their owner gives signs of life: the settings, and the ids of owners.

An owner id names one claim: ``atp:{INSTANCE_ID}:{incarnation}:{nonce}:{attempt}``. The incarnation is new in each
process, and the nonce in each claim, so that a late report never ends a claim that was made later. What stands before
the nonce names the process: all its claims live and end with it.
"""

import re
import secrets
import socket
from typing import Annotated, Final

from pydantic import AfterValidator

from ai_task_processor.core.groups import Group, setting

#: owners without it are other workers, whose claims are never taken away
PREFIX: Final = "atp:"
#: the longest owner id: 100 characters of INSTANCE_ID, two numbers of 16 digits, the attempt
MAX_OWNER: Final = 160
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9._-]")


def _instance_id(text: str) -> str:
    if len(text) > 100 or _FOREIGN.search(text):
        raise ValueError("must have at most 100 letters, digits, dots, hyphens and underscores")
    return text


class LeaseSettings(Group):
    """Who this daemon is for others that share its tasks, and when its claims end without it."""

    section = "PostgreSQL"

    own_instance_id: Annotated[str, AfterValidator(_instance_id)] | None = setting(
        "INSTANCE_ID", "the name of this daemon in its claims; the host name if not set"
    )
    lease_ttl_s: float = setting(
        "LEASE_TTL", "seconds that a claim lives without a sign of life of its daemon", "15", ge=2, le=86400
    )

    @property
    def instance_id(self) -> str:
        """The name of this daemon."""
        return self.own_instance_id or _FOREIGN.sub("-", socket.gethostname())[:100] or "unnamed"


def new_incarnation(instance_id: str) -> str:
    """The beginning of the owner ids of a process that starts now: ``atp:host-1:9f0c…``."""
    return f"{PREFIX}{instance_id}:{secrets.token_hex(8)}"


def new_nonce(incarnation: str) -> str:
    """The beginning of the owner ids of tasks that are claimed together; the attempt follows."""
    return f"{incarnation}:{secrets.token_hex(8)}:"


def incarnation_of(owner: str) -> str:
    """The process that an owner id belongs to."""
    return owner.rsplit(":", 2)[0]


def attempt_of(owner: str) -> int:
    """The attempt that an owner id counts, 1 when it is unreadable."""
    digits = owner.rpartition(":")[2]
    return int(digits) if re.fullmatch(r"[0-9]{1,9}", digits) else 1
