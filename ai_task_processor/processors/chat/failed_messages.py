"""Messages of chat calls that failed: set aside for a while when others were served meanwhile."""

import hashlib

from ai_task_processor.core.errors import Ambiguous, CallRefused, InputRefused, RemoteError, SetAside, Transient
from ai_task_processor.core.ports import ChatRequest
from ai_task_processor.providers.set_aside import SetAsideTexts

#: refusals of the same messages, while others are served, that are final
REFUSED_AT = 3
#: the most messages that are stored because they failed while no others were served
MAX_FAILED = 10_000


class FailedMessages:
    """By ``key_of`` them. ``served``: the calls of the model that were served so far; ``now``: a monotonic clock."""

    def __init__(self) -> None:
        self._set_aside = SetAsideTexts()
        #: how many calls of the model had been served before the first failure
        self._failed_at: dict[bytes, int] = {}
        #: messages with which a probe failed
        self._probes: set[bytes] = set()

    def admit(self, key: bytes, now: float) -> None:
        """Raises ``SetAside`` when they must not be sent now."""
        aside = self._set_aside.get(key)
        if aside is not None and (left_s := aside.until - now) > 0:
            raise SetAside(f"its messages fail while others are served: {aside.reason}", retry_after_s=left_s)

    def probed(self, key: bytes) -> None:
        """A probe with these messages failed."""
        if len(self._probes) < MAX_FAILED:
            self._probes.add(key)

    def gives_way(self, key: bytes) -> bool:
        """Whether a probe failed with these, and others should be the next one first; once."""
        known = key in self._probes
        self._probes.discard(key)
        return known

    def served_before(self, key: bytes, served: int) -> int:
        """How many calls had been served before their first failure, or now."""
        return min(served, self._failed_at.get(key, served))

    def answered(self) -> None:
        """The model has served some messages."""
        self._probes.clear()

    def clear(self, key: bytes) -> None:
        """They were served, or refused for good."""
        self._set_aside.clear(key)
        self._failed_at.pop(key, None)

    def refused(self, key: bytes, error: CallRefused, before: int, served: int, now: float) -> Exception:
        """400 and the like. Without a reason these messages count as the cause only while others are served."""
        aside = self._set_aside.get(key)
        again = aside is not None and aside.times >= REFUSED_AT - 1 and served > before
        if error.final is not None and (error.explained or again):
            self.clear(key)
            return error.final
        return self.given_up(key, error, before, served, now)

    def given_up(self, key: bytes, error: RemoteError, before: int, served: int, now: float) -> RemoteError:
        """Set the messages aside when others were served meanwhile: then the model is well."""
        if not isinstance(error, Transient | Ambiguous | CallRefused):
            return error
        if served <= before:
            while len(self._failed_at) >= MAX_FAILED:
                del self._failed_at[next(iter(self._failed_at))]
            self._failed_at[key] = before
            return error
        delay_s = self._set_aside.again(key, now, str(error))
        return SetAside(f"its messages fail while others are served: {error}", retry_after_s=delay_s)

    def reason(self) -> str | None:
        return self._set_aside.reason()


def key_of(request: ChatRequest) -> bytes:
    """Of the messages. Raises ``InputRefused`` for what is no Unicode."""
    try:
        parts = [request.model.encode()]
        parts += [f"{message.role}\n{message.content}".encode() for message in request.messages]
    except UnicodeEncodeError as error:
        raise InputRefused("invalid_text", "the text is not valid Unicode") from error
    return hashlib.sha256(b"\0".join(parts)).digest()
