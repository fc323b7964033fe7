"""E-mail addresses of users, looked up at the API of a periodic source. They have a circuit of their own."""

from collections.abc import Mapping

from ai_task_processor.core import codec
from ai_task_processor.core.errors import InvalidAnswer
from ai_task_processor.core.pointer import keys, resolve
from ai_task_processor.net.answers import Answer
from ai_task_processor.net.services import Services
from ai_task_processor.sources.periodic.api import Api, refusal
from ai_task_processor.sources.periodic.profile import AddressesPart

SERVICE = "addresses"
#: for how long an address that was found is used again, seconds, and how many are kept: a mail that must be sent again
#: needs no second look-up
KEPT_S, KEPT = 300.0, 10_000


class Addresses:
    """``net.services.Lookup`` for ``email``."""

    def __init__(self, services: Services, api: Api, profile: AddressesPart) -> None:
        self._api = api
        self._profile = profile
        self._clock = services.clock
        self._gate = services.gate(SERVICE)
        self._kept: dict[str, tuple[str, float]] = {}

    async def __call__(self, result: Mapping[str, object]) -> str | None:
        """The address of the user that the result names.

        None when the API knows no such user, and for a user id that does not match the pattern: the API is not asked.
        Raises ``RemoteError``.
        """
        user = str(result.get(self._profile.field))
        if not self._profile.pattern.fullmatch(user):
            return None
        now = self._clock.monotonic()
        address, until = self._kept.get(user, ("", 0.0))
        if until > now:
            return address
        found = await self._gate.call(lambda: self._asked(user))
        if found is not None:
            if len(self._kept) >= KEPT:
                self._kept.clear()
            self._kept[user] = found, now + KEPT_S
        return found

    async def _asked(self, user: str) -> str | None:
        path = self._profile.path
        return self.read(await self._api.get(path, path.replace(f"{{{self._profile.field}}}", user)))

    def read(self, answer: Answer) -> str | None:
        """Only a 404 with the API's ``{"detail": …}`` is about a user; that of a gateway is ``Misconfigured``."""
        try:
            document = codec.loads(answer.content)
        except ValueError:
            document = None
        if not answer.is_success:
            if isinstance(document, dict) and "detail" in document:
                return None
            raise refusal(answer)
        address = resolve(document, keys(self._profile.address))
        if not isinstance(address, str) or not address:
            raise InvalidAnswer("the task API answered without an e-mail address")
        return address
