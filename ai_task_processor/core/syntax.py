"""Parses single settings: a text of the environment in, a value out.

A function raises ``ValueError`` with a sentence that follows the variable's name. It never contains the text,
which may be a secret.
"""

import ipaddress
import json
import os
import re
import ssl
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

MIN_SHARED_SECRET = 16
#: texts that pydantic parses as true
TRUE = frozenset({"true", "yes", "on", "1", "t", "y"})
_PRIVATE_SUFFIXES = (".local", ".internal", ".svc", ".svc.cluster.local")


def printable(text: str) -> str:
    """A credential: printable ASCII (RFC 6749, appendix A), because it travels in a header."""
    if not re.fullmatch(r"[\x20-\x7e]+", text):
        raise ValueError("must be printable ASCII on one line: look for a stray line break or a curly quotation mark")
    return text


def shared_secret(text: str) -> str:
    """A credential that a person chooses. It must be long, because guesses are not rate-limited."""
    if len(printable(text)) < MIN_SHARED_SECRET:
        raise ValueError(f"must have at least {MIN_SHARED_SECRET} characters: openssl rand -hex 32 makes a good one")
    return text


def name_list(text: str) -> tuple[str, ...]:
    """Names, separated by commas or spaces."""
    return tuple(text.replace(",", " ").split())


def path_list(text: str) -> tuple[str, ...]:
    """Paths with colons between, as in ``PATH``."""
    return tuple(part for part in text.split(":") if part)


def type_limits(text: str) -> dict[str, int]:
    """A JSON object from task types to how many of each may run at once."""
    try:
        limits = json.loads(text or "{}")
    except (ValueError, RecursionError):
        limits = None
    if not isinstance(limits, dict) or not all(type(limit) is int and limit >= 1 for limit in limits.values()):
        raise ValueError('must be a JSON object with whole numbers from 1 on, such as {"summarize": 2}')
    return limits


def byte_count(text: str) -> str:
    """Check a text for pydantic's ``ByteSize``, which would read ``5,5GiB`` as five bytes."""
    if not re.fullmatch(r"\d{1,18}(\.\d{1,3})?\s*([kmgtp]i?)?b?", text, re.IGNORECASE):
        raise ValueError("must be a number of bytes such as 1073741824, 512MiB or 1GiB")
    return text


def ca_file(path: Path) -> Path:
    """A bundle that OpenSSL can load."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError):
        raise ValueError("must name a readable file of PEM certificates") from None
    return path


def endpoint_url(text: str, *, credentials: bool = False) -> str:
    """An absolute http(s) URL, exactly as given; ``credentials``: it may contain a user and password."""
    try:
        parts = urlsplit(text)
        whole = parts.scheme in {"http", "https"} and _is_host(parts.hostname or "") and parts.port != 0
    except ValueError:
        whole = False
    if not whole or not re.fullmatch(r"[^\s\\\x00-\x1f\x7f]+", text):
        raise ValueError("must be an absolute http or https URL, for example https://host.example.com")
    if "?" in text or "#" in text:
        raise ValueError("must have no query and no fragment: remove everything from the first ? or #")
    if "@" in parts.netloc and not credentials:
        raise ValueError("must not contain a user name or password: credentials have their own variables")
    return text


def _is_host(host: str) -> bool:
    """Whether it is an address or a valid host name; ``api..example.com`` is none."""
    labels = host.removesuffix(".").split(".")
    return ip_address(host) is not None or all(re.fullmatch(r"(?!-)[\w-]{1,63}(?<!-)", label) for label in labels)


def base_url(text: str) -> str:
    """A URL that paths are appended to: without a slash at its end."""
    return endpoint_url(text).rstrip("/")


def header_pairs(text: str) -> str:
    """Headers as ``OTEL_EXPORTER_OTLP_HEADERS`` has them, exactly as given."""
    if not re.fullmatch(r"[^=,\s]+=[^,]+(,\s*[^=,\s]+=[^,]+)*", text):
        raise ValueError("must be name=value, with commas between and values in percent-encoding")
    return text


def header_secrets(text: str) -> list[str]:
    """The parts of such headers that must never be shown: all of it, each value, and each value decoded."""
    values = [pair.partition("=")[2].strip() for pair in text.split(",")]
    decoded = [unquote(value) for value in values]
    return [text, *values, *decoded, *(word for value in decoded for word in value.split()[1:])]


def proxy_url(text: str) -> str:
    """The URL of a proxy, the only one that may contain credentials."""
    return endpoint_url(text, credentials=True).rstrip("/")


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The host as an address, None for a name. IPv4 mapped into IPv6 counts as IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def plain_http(url: str) -> Literal["private", "public"] | None:
    """The kind of network that unencrypted requests to this URL cross; None for https and for this machine."""
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if parts.scheme != "http" or host == "localhost":
        return None
    if address := ip_address(host):
        return None if address.is_loopback else "private" if address.is_private else "public"
    if re.fullmatch(r"\d+|0x[0-9a-f]*", host.rsplit(".", 1)[-1]):
        return "public"  # 134744072 is 8.8.8.8 to the resolver, not a dotless name
    return "private" if "." not in host or host.endswith(_PRIVATE_SUFFIXES) else "public"


def client_certificate_problems(cert: Path, key: Path | None, password: str | None, now: datetime) -> list[str]:
    """Why these files cannot be used as a client certificate; each reason with the variable and the remedy."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    certificate_name = _named("CLIENT_CERT_FILE", cert)
    key_name = certificate_name if key is None else _named("CLIENT_KEY_FILE", key)
    try:
        certificate_pem = _read(certificate_name, cert)
        key_pem = _read(key_name, key or cert)
    except ValueError as error:
        return [str(error)]
    try:
        own = x509.load_pem_x509_certificates(certificate_pem)[0]
    except ValueError:
        return [f"{certificate_name} must name a file of PEM certificates: the client's own first"]
    if b"PRIVATE KEY-----" not in key_pem:
        return [f"{key_name} holds no private key: set CLIENT_KEY_FILE to the PEM file of the certificate's key"]
    encrypted = b"ENCRYPTED" in key_pem
    if encrypted and password is None:
        return ["CLIENT_KEY_PASSWORD is missing: set it to the password of the client's private key"]
    try:
        private = load_pem_private_key(key_pem, (password or "").encode() if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        if encrypted:
            return [f"CLIENT_KEY_PASSWORD does not open the private key in {key_name}: correct it"]
        return [f"{key_name} must name a file with a private key in PEM format"]
    if private.public_key() != own.public_key():
        return [
            f"{key_name} holds a key that does not fit the certificate in {certificate_name}: take both from one issue"
        ]
    if own.not_valid_after_utc <= now:
        return [f"{certificate_name} holds a certificate that expired on {own.not_valid_after_utc:%Y-%m-%d}: renew it"]
    if own.not_valid_before_utc > now:
        since = f"{own.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return [f"{certificate_name} holds a certificate that is valid from {since}: set the clock of this machine"]
    return []


def certificate_end(cert: Path) -> datetime:
    """When the first certificate of a PEM file expires. Raises ``OSError``, ``ValueError``."""
    from cryptography import x509

    return x509.load_pem_x509_certificates(cert.read_bytes())[0].not_valid_after_utc


def _named(name: str, path: Path) -> str:
    """A setting with its file. What names no file is not shown: it may be a secret at the wrong place."""
    return f"{name} ({path})" if os.path.exists(path) else name  # noqa: PTH110 - Path.exists raises for a PEM


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        text = f"{name} names a file that cannot be read ({error.strerror}): mend the path or permissions"
        raise ValueError(text) from None


def private_key(pem: str) -> str:
    """An unencrypted RSA private key in PEM: assertions are signed with RS256."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = None
    with suppress(ValueError, TypeError, UnsupportedAlgorithm):
        key = load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("must name a file with an unencrypted RSA private key in PEM format")
    return pem
