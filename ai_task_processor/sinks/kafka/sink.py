"""Writes results to a topic, and waits for the broker's acknowledgement."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ai_task_processor.core import codec
from ai_task_processor.core.checks import Finding, Remote, Stopwatch, aside, ok, warning
from ai_task_processor.core.errors import Misconfigured, RemoteError, TimedOut, Transient, Unauthorized, Unsent
from ai_task_processor.models.task import Record
from ai_task_processor.net.services import Services
from ai_task_processor.net.tls import shared_tls
from ai_task_processor.sinks.base import Refused, RemoteSink, event_id, result
from ai_task_processor.sinks.kafka.settings import KafkaSettings, configuration

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

#: seconds between two looks for an acknowledgement: the first, and the longest
LOOK_S = (0.001, 0.05)
#: for the metadata that ``doctor`` asks for, and for closing, seconds
CHECK_S, CLOSE_S = 5.0, 1.0

CREDENTIALS = "correct KAFKA_SASL_USERNAME, KAFKA_SASL_PASSWORD or KAFKA_SASL_MECHANISM"

#: by librdkafka's name of an error; many others pass by themselves
_ERRORS: Mapping[str, tuple[type[RemoteError | Refused], str]] = {
    "_AUTHENTICATION": (Unauthorized, f"the Kafka broker refuses the login: {CREDENTIALS}"),
    "SASL_AUTHENTICATION_FAILED": (Unauthorized, f"the Kafka broker refuses the login: {CREDENTIALS}"),
    "TOPIC_AUTHORIZATION_FAILED": (Unauthorized, "KAFKA_SASL_USERNAME may not write into KAFKA_TOPIC: permit it"),
    "CLUSTER_AUTHORIZATION_FAILED": (Unauthorized, "KAFKA_SASL_USERNAME may not use an idempotent producer: permit it"),
    "_SSL": (Unsent, "no TLS with the Kafka broker: look at KAFKA_SECURITY_PROTOCOL, CA_BUNDLE and CLIENT_CERT_FILE"),
    "_RESOLVE": (Unsent, "the Kafka broker has no address: correct KAFKA_BOOTSTRAP_SERVERS"),
    "_TRANSPORT": (Unsent, "no connection to the Kafka broker: is it running? See KAFKA_BOOTSTRAP_SERVERS"),
    "_ALL_BROKERS_DOWN": (Unsent, "no connection to a Kafka broker: is one running? See KAFKA_BOOTSTRAP_SERVERS"),
    "_MSG_TIMED_OUT": (TimedOut, "the Kafka broker does not answer in time: look at KAFKA_SECURITY_PROTOCOL, too"),
    "_BAD_MSG": (Misconfigured, "no answer of a Kafka broker: correct KAFKA_BOOTSTRAP_SERVERS"),
    "_UNKNOWN_TOPIC": (Misconfigured, "the Kafka topic does not exist: create it, or correct KAFKA_TOPIC"),
    "UNKNOWN_TOPIC_OR_PART": (Misconfigured, "the Kafka topic does not exist: create it, or correct KAFKA_TOPIC"),
    "MSG_SIZE_TOO_LARGE": (Refused, "the result is larger than KAFKA_TOPIC takes: raise max.message.bytes there"),
    "INVALID_RECORD": (Refused, "the Kafka broker refuses this result: look at the rules of KAFKA_TOPIC"),
}


def explained(name: str, cause: str | None = None) -> RemoteError | Refused:
    """The error for one of librdkafka's. ``cause``: why the broker was not reached, when no answer came in time."""
    if name == "_MSG_TIMED_OUT" and cause is not None:
        return explained(cause)
    kind, text = _ERRORS.get(name, (Transient, f"Kafka answers {name}"))
    return kind(text)


def key(record: Record, field: str | None) -> str:
    """The text or number in this field of the result; the task's id when there is none."""
    found = result(record) if field is not None else None
    value = found.get(field) if isinstance(found, dict) else None
    return str(value) if isinstance(value, str | int) else record.task_id


def value(record: Record) -> bytes:
    """The message: the result's object with ``event_id``, or an object around a result that is none."""
    found, event = result(record), str(event_id(record))
    if isinstance(found, dict):
        return codec.dumps({**found, "event_id": event})
    return codec.dumps({"event_id": event, "task_id": record.task_id, "type": record.task_type, "result": found})


class KafkaSink(RemoteSink):
    """A message for each result."""

    name = "kafka"
    order = "after_report"
    settings_groups = (KafkaSettings,)

    def __init__(self, services: Services) -> None:
        settings = services.settings[KafkaSettings]
        servers = settings.bootstrap_servers
        remote = Remote("Kafka broker", "KAFKA_BOOTSTRAP_SERVERS", f"kafka://{servers[0]}") if servers else None
        super().__init__(services, settings, remote, "confluent_kafka")
        self._network = services.settings.network
        self._producer: Producer | None = None
        #: what the producer was made of: another secret or certificate needs another producer
        self._made_of: object = None
        #: why the broker cannot be reached, as the producer reported last
        self._cause: str | None = None

    async def _send(self, record: Record) -> None:
        from confluent_kafka import KafkaException

        producer, acknowledged = self._current(), list["KafkaError | None"]()
        settings = self._secrets[KafkaSettings]
        try:
            producer.produce(
                settings.topic or "",
                value(record),
                key(record, settings.key),
                headers=[("event_id", str(event_id(record)).encode())],
                on_delivery=lambda error, _: acknowledged.append(error),
            )
        except KafkaException as failure:
            producer.poll(0)
            raise explained(failure.args[0].name()) from failure
        except BufferError as full:
            raise Transient("too many results wait for the Kafka broker") from full
        wait_s, longest_s = LOOK_S
        while not acknowledged:
            await self._clock.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)
            producer.poll(0)  # calls ``on_delivery`` and ``error_cb``, in this thread
        if (error := acknowledged[0]) is not None:
            raise explained(error.name(), self._cause)
        self._cause = None

    def _current(self) -> "Producer":
        """The producer for the present secrets and certificates."""
        settings = self._secrets[KafkaSettings]
        encrypted = settings.security_protocol.endswith("SSL")
        made_of = settings, shared_tls(self._network).context if encrypted else None
        if self._producer is None or made_of != self._made_of:
            from confluent_kafka import KafkaException, Producer

            try:
                self._producer = Producer({**configuration(settings, self._network), "error_cb": self._noted})
            except KafkaException as failure:
                raise Misconfigured("no Kafka producer can be made: look at CLIENT_CERT_FILE") from failure
            self._made_of = made_of
        return self._producer

    def _noted(self, error: "KafkaError") -> None:
        """After a fatal error another producer is needed. The other errors say why the broker cannot be reached."""
        if error.fatal():
            self._producer = None
        elif self._cause is None or error.name() != "_ALL_BROKERS_DOWN":
            self._cause = error.name()

    async def aclose(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            await aside(lambda: producer.flush(CLOSE_S))

    async def _access(self) -> Finding:
        from confluent_kafka import KafkaException

        topic, watch, producer = self._secrets[KafkaSettings].topic, Stopwatch(), self._current()
        try:
            # All topics: to ask for one can create it.
            found = await aside(lambda: producer.list_topics(timeout=CHECK_S))
        except KafkaException as failure:
            producer.poll(0)
            raise explained("_MSG_TIMED_OUT", self._cause) from failure
        if topic not in found.topics:
            return warning(f"there is no topic {topic} yet, or it may not be seen", "create it, or correct KAFKA_TOPIC")
        return ok(f"the topic {topic} has {len(found.topics[topic].partitions)} partitions ({watch})")
