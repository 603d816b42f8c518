"""Doubles a server of AWS, on a loopback port: it answers with the bytes that a test gives it."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

CLOSE, RESET, HANG = b"close", b"reset", b"hang"
"""Instead of an answer: the connection is closed, or reset, or no answer comes."""
THEN_CLOSE = b"\0then close"
"""After an answer: the server closes the connection, as one does that has been idle."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A request as it came; header names are in lower case. ``link``: the connection's number."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    link: int


@dataclass
class ScriptedServer:
    """Answers requests in turn, and the rest with the last answer."""

    scheme: str = "http"
    port: int = 0
    host: str = "127.0.0.1"
    answers: list[bytes] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    links: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    """Released for each connection that the server has closed."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    def script(self, *answers: bytes) -> None:
        """Forget what was heard, and answer so from now on."""
        self.answers, self.heard = list(answers), []

    def next_answer(self) -> bytes:
        with self.lock:
            return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


def answer(
    body: bytes = b"{}", status: int = 200, kind: str = "application/x-amz-json-1.0", **more: object
) -> bytes:
    """Return the bytes of an answer; ``more`` are headers, with underscores for hyphens."""
    headers = {"content-type": kind, "content-length": len(body), **more}
    lines = [f"HTTP/1.1 {status} Of course"]
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _serve(server: ScriptedServer, link: int, sock: socket.socket) -> None:
    with sock.makefile("rb") as file:
        _answer(server, link, sock, file)


def _answer(server: ScriptedServer, link: int, sock: socket.socket, file: BinaryIO) -> None:
    while first := file.readline().decode("latin-1").split():
        headers = {}
        while (line := file.readline().decode("latin-1").strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("expect"):
            sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = file.read(int(headers.get("content-length", 0)))
        with server.lock:
            server.heard.append(Heard(first[0], first[1], headers, body, link))
        reply = server.next_answer()
        if reply == HANG:
            file.read(1)
            return
        if reply == RESET:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            return
        if reply == CLOSE:
            return
        sock.sendall(reply.removesuffix(THEN_CLOSE))
        if reply.endswith(THEN_CLOSE):
            return


@contextmanager
def serving(tls: tuple[Path, Path] | None = None) -> Iterator[ScriptedServer]:
    """Serve on a loopback port; ``tls`` are the files of a certificate and its key."""
    server = ScriptedServer("https" if tls else "http")
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    server.port = listener.getsockname()[1]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if tls:
        context.load_cert_chain(*tls)
    threads, socks = list[threading.Thread](), list[socket.socket]()

    def one(link: int, sock: socket.socket) -> None:
        with suppress(OSError, ValueError):
            if tls:
                sock = context.wrap_socket(sock, server_side=True)
                socks.append(sock)
            with suppress(OSError):
                _serve(server, link, sock)
            sock.close()
        server.closed.release()

    def accept() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            socks.append(sock)
            server.links += 1
            name = f"link {server.links}"
            given = (server.links, sock)
            thread = threading.Thread(target=one, name=name, args=given, daemon=True)
            thread.start()
            threads.append(thread)  # whoever joins them meets none that has not begun

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for sock in socks:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(5)
