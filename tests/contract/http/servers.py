"""Servers that answer in ways of their own, and certificates for them."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.client import HttpClient, Tokens, make_client

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def with_header(line: bytes) -> bytes:
    """``OK``, and this header with it."""
    return OK.replace(b"\r\n", b"\r\n" + line + b"\r\n", 1)


NETWORK = NetworkSettings.model_validate({})


class Server:
    """Does as told with each request; counts connections and keeps the requests."""

    def __init__(self, *answers: bytes | Talk) -> None:
        self.connections = 0
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.url = ""
        self.writers: list[asyncio.StreamWriter] = []
        self._answers = answers

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        # RuntimeError: uvloop's word for writing to a connection that is closed
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, RuntimeError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                answer = self._answers[min(len(self.heads), len(self._answers)) - 1]
                if isinstance(answer, bytes):
                    self.bodies.append(await reader.readexactly(_length(head)))
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)

    def headers(self, name: bytes) -> list[bytes]:
        """The values of a header, of all requests."""
        lines = [line.partition(b": ") for head in self.heads for line in head.split(b"\r\n")]
        return [value for key, _, value in lines if key.lower() == name]

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


def _length(head: bytes) -> int:
    lines = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return int(lines[0].partition(b":")[2]) if lines else 0


@asynccontextmanager
async def serving(*answers: bytes | Talk, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(*answers)
    listener = await asyncio.start_server(server.talk, "127.0.0.1", 0, ssl=tls, backlog=4096)
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        server.hang_up()
        await asyncio.sleep(0.02)


@asynccontextmanager
async def client_of(
    url: str,
    network: NetworkSettings = NETWORK,
    *,
    connections: int = 4,
    tokens: Tokens | None = None,
    limit: int | None = 10**6,
) -> AsyncIterator[HttpClient]:
    client = make_client(network, url=url, connections=connections, tokens=tokens, max_answer_bytes=limit)
    try:
        yield client
    finally:
        await client.aclose()


@contextlib.contextmanager
def blocking(context: ssl.SSLContext) -> Iterator[tuple[str, list[str]]]:
    """A TLS server without asyncio, whose handshake sends no alert: its URL, and the names of the clients it served."""
    listener, served = socket.create_server(("127.0.0.1", 0)), list[str]()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                raw, _ = listener.accept()
                raw.settimeout(5)
                connection = context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                try:
                    connection.do_handshake()
                    connection.recv(2**16)
                    served.append(connection.getpeercert()["subject"][0][0][1])  # type: ignore[index]
                    connection.sendall(with_header(b"Connection: close"))
                except OSError:
                    # What is closed with something unread resets the connection, and the alert may be lost.
                    connection = socket.socket(fileno=connection.detach())  # type: ignore[assignment]
                    connection.settimeout(0.2)
                    with contextlib.suppress(OSError):
                        while connection.recv(2**16):
                            pass
                connection.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", served
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


class Authority:
    """Signs certificates for 127.0.0.1 and the name of whom they are for; ``pem`` is its own."""

    def __init__(self, folder: Path, above: "Authority | None" = None, *, name: str = "root", days: float = 1) -> None:
        self._folder, self._above = folder, above
        self._serial = 1
        self.key, self.name = ec.generate_private_key(ec.SECP256R1()), _name(name)
        self.pem = folder / f"authority-{name}.pem"
        signer = above or self
        self.certificate = signer.sign(name, self.key.public_key(), authority=True, days=days)
        self.pem.write_bytes(self.certificate)

    def sign(self, name: str, key: ec.EllipticCurvePublicKey, *, authority: bool, days: float = 1) -> bytes:
        self._serial += 1
        end = datetime.now(UTC) + timedelta(days=days)
        start = end - timedelta(days=2 + abs(days))
        builder = x509.CertificateBuilder(self.name, _name(name), key, self._serial, start, end)
        names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName(name)]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def issue(self, name: str, *, password: str | None = None, days: int = 1) -> Path:
        """A file with a certificate, the authorities between, and the key."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = self.sign(name, key.public_key(), authority=False, days=days)
        return self._file(name, pem + (b"" if self._above is None else self.certificate), key, password)

    def own(self) -> Path:
        """A file with its own certificate and the key."""
        return self._file("own", self.certificate, self.key)

    def _file(self, name: str, pem: bytes, key: ec.EllipticCurvePrivateKey, password: str | None = None) -> Path:
        hidden = NoEncryption() if password is None else BestAvailableEncryption(password.encode())
        path = self._folder / f"{name}.pem"
        path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, hidden))
        return path

    def context(self, *, clients: bool = False, itself: bool = False) -> ssl.SSLContext:
        """A server's; ``clients``: it demands a certificate of ours from everybody; ``itself``: it shows our own."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.own() if itself else self.issue("server"))
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.pem)
        return context


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])
