"""The settings of the Kafka sink, and what librdkafka is configured with."""

import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ai_task_processor.core import syntax
from ai_task_processor.core.groups import SENTENCES, Printable, insecure_allowed, setting
from ai_task_processor.core.plugins import PACKAGE
from ai_task_processor.core.settings import Names, NetworkSettings
from ai_task_processor.net.tls import shared_tls
from ai_task_processor.sinks.base import SinkSettings

#: seconds after which the producer gives up a message, below ``Sink.within_s``
DELIVERY_S = 10.0
#: the largest message that the producer takes, in bytes; topics have a lower limit (``max.message.bytes``)
MAX_MESSAGE_BYTES = 32 * 2**20


def _servers(servers: tuple[str, ...]) -> tuple[str, ...]:
    try:
        for server in servers:
            syntax.endpoint_url(f"https://{server}")
    except ValueError:
        raise ValueError("must be brokers as host:port, separated by commas") from None
    return servers


class KafkaSettings(SinkSettings):
    """The broker, how to log in there, and the topic."""

    sink = "kafka"
    address = "KAFKA_BOOTSTRAP_SERVERS"

    bootstrap_servers: Annotated[Names, AfterValidator(_servers)] | None = setting(
        "KAFKA_BOOTSTRAP_SERVERS", "brokers as host:port, separated by commas; the sink kafka is off without them"
    )
    topic: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")] | None = setting(
        "KAFKA_TOPIC", "the name of the topic of the results"
    )
    key: str | None = setting(
        "KAFKA_KEYED_BY", "the field of a result that is the key of its message; the task's id without"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = setting(
        "KAFKA_SECURITY_PROTOCOL", "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL", "PLAINTEXT"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = setting(
        "KAFKA_SASL_MECHANISM", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", "PLAIN"
    )
    sasl_username: Annotated[str, Printable] | None = setting("KAFKA_SASL_USERNAME", "the user at the broker")
    sasl_password: SecretStr | None = setting("KAFKA_SASL_PASSWORD", "the password of that user")

    @classmethod
    def required(cls, given: Mapping[str, str]) -> Iterable[str]:
        if cls.address in given:
            yield "KAFKA_TOPIC"
            if given.get("KAFKA_SECURITY_PROTOCOL", "").startswith("SASL_"):
                yield from ("KAFKA_SASL_USERNAME", "KAFKA_SASL_PASSWORD")

    @field_validator("security_protocol")
    @classmethod
    def _encrypted(cls, protocol: str, info: ValidationInfo) -> str:
        if "public" in _plain(protocol, info.data.get("bootstrap_servers")) and not insecure_allowed():
            line = "KAFKA_BOOTSTRAP_SERVERS has a public host, and results could be read on the way"
            remedy = "set KAFKA_SECURITY_PROTOCOL to SSL or SASL_SSL; ALLOW_INSECURE_HTTP=true permits it"
            raise PydanticCustomError(SENTENCES, f"{line}: {remedy}")
        return protocol

    def warnings(self) -> Iterator[str]:
        yield from super().warnings()
        for reach in sorted(_plain(self.security_protocol, self.bootstrap_servers)):
            protocol = self.security_protocol
            yield f"KAFKA_SECURITY_PROTOCOL is {protocol} to a {reach} host: results can be read on the way"
        if self.sasl_username and not self.security_protocol.startswith("SASL_"):
            yield "KAFKA_SASL_USERNAME is not used: KAFKA_SECURITY_PROTOCOL is neither SASL_SSL nor SASL_PLAINTEXT"


def _plain(protocol: str, servers: Sequence[str] | None) -> set[str]:
    """The kinds of network that unencrypted messages would cross (see ``syntax.plain_http``)."""
    reaches = (syntax.plain_http(f"http://{server}") for server in servers or ())
    return {reach for reach in reaches if reach} if protocol.endswith("PLAINTEXT") else set()


def configuration(settings: KafkaSettings, network: NetworkSettings) -> dict[str, Any]:
    """What librdkafka is configured with. It trusts the same authorities as every other client here."""
    found: dict[str, Any] = {
        "bootstrap.servers": ",".join(settings.bootstrap_servers or ()),
        "security.protocol": settings.security_protocol,
        "client.id": PACKAGE,
        "enable.idempotence": True,
        "compression.type": "gzip",  # the one that every consumer library knows without another package
        "message.max.bytes": MAX_MESSAGE_BYTES,
        "delivery.timeout.ms": int(DELIVERY_S * 1000),
        "request.timeout.ms": int(DELIVERY_S * 1000 / 2),
        "reconnect.backoff.max.ms": 2000,
        "topic.metadata.propagation.max.ms": int(DELIVERY_S * 1000 / 4),  # until then a topic may be on its way
        "log_level": 0,  # its lines would go to stderr as they are
    }
    if settings.security_protocol.startswith("SASL_"):
        password = settings.sasl_password
        found |= {
            "sasl.mechanism": settings.sasl_mechanism,
            "sasl.username": settings.sasl_username,
            "sasl.password": "" if password is None else password.get_secret_value(),
        }
    if settings.security_protocol.endswith("SSL"):
        authorities = shared_tls(network).context.get_ca_certs(binary_form=True)
        found["ssl.ca.pem"] = "".join(map(ssl.DER_cert_to_PEM_cert, authorities))
        if network.client_cert_file is not None:
            password = network.client_key_password
            found |= {
                "ssl.certificate.location": str(network.client_cert_file),
                "ssl.key.location": str(network.client_key_file or network.client_cert_file),
                "ssl.key.password": "" if password is None else password.get_secret_value(),
            }
    return found
