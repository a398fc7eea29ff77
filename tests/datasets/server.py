"""A real HTTP server on loopback that serves a folder and misbehaves on demand."""

from __future__ import annotations

import http.server
import re
import socket
import ssl
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """How one answer goes wrong; the default is a good answer.

    Attributes:
        status: Instead of 200 or 206.
        cut: Close the connection after so many bytes of the body.
        reset: Let that closing be a reset.
        size: Serve the file as if it had this many bytes: shorter, or longer with zeros.
        flip: Invert this byte of the file.
        no_range: Send everything, whatever was asked for.
        range_start: Claim that the range begins here.
        no_length: Send no Content-Length; the closed connection ends the body.
        to: Redirect there.
        encoding: Content-Encoding to claim.
        pause: Seconds between two blocks of the body.
        stall: Seconds before the end of the body.
        mute: Close the connection without an answer; "noise" answers something that is not HTTP.
    """

    status: int | None = None
    cut: int | None = None
    reset: bool = False
    size: int | None = None
    flip: int | None = None
    no_range: bool = False
    range_start: int | None = None
    no_length: bool = False
    to: str | None = None
    encoding: str | None = None
    pause: float = 0.0
    stall: float = 0.0
    mute: str = ""


GOOD = Fault()
BLOCK = 1 << 16


class DataServer(http.server.ThreadingHTTPServer):
    """Serves `root`.

    Attributes:
        root: The folder.
        once: File name -> faults of the next answers, in order.
        always: File name -> fault of every answer after those.
        log: (path, Range header) of every request.
    """

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.root = root
        self.once: dict[str, list[Fault]] = defaultdict(list)
        self.always: dict[str, Fault] = {}
        self.log: list[tuple[str, str | None]] = []
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def asked(self, name: str) -> list[str | None]:
        """Return the Range headers of the requests for files of that name."""
        return [wanted for path, wanted in self.log if path.endswith(name)]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no error of the server."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: DataServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path  # A proxy is asked for a whole address.
        wanted = self.headers.get("Range")
        self.server.log.append((path, wanted))
        name = path.rpartition("/")[2]
        queue = self.server.once[name]
        fault = queue.pop(0) if queue else self.server.always.get(name, GOOD)
        file = self.server.root / path.lstrip("/")
        self.close_connection = True
        if fault.mute:
            self.wfile.write(b"220 ready\r\n\r\n" if fault.mute == "noise" else b"")
        elif fault.to is not None:
            self._head(fault.status or 302, {"Location": fault.to, "Content-Length": "0"})
        elif not file.is_file() or (fault.status is not None and fault.status >= 400):
            self._head(fault.status or 404, {"Content-Length": "0"})
        else:
            self._send(file.read_bytes(), wanted, fault)

    def _send(self, body: bytes, wanted: str | None, fault: Fault) -> None:
        if fault.size is not None:
            body = body[: fault.size].ljust(fault.size, b"\0")
        if fault.flip is not None:
            body = body[: fault.flip] + bytes([body[fault.flip] ^ 255]) + body[fault.flip + 1 :]
        total, start, headers = len(body), 0, {}
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if found and not fault.no_range:
            start = int(found[1])
            if start >= total:
                self._head(416, {"Content-Range": f"bytes */{total}", "Content-Length": "0"})
                return
            claimed = start if fault.range_start is None else fault.range_start
            headers["Content-Range"] = f"bytes {claimed}-{total - 1}/{total}"
            body = body[claimed:]
        if not fault.no_length:
            headers["Content-Length"] = str(len(body))
        if fault.encoding:
            headers["Content-Encoding"] = fault.encoding
        self._head(fault.status or (206 if "Content-Range" in headers else 200), headers)
        self._body(body, fault)

    def _body(self, body: bytes, fault: Fault) -> None:
        cut = len(body) if fault.cut is None else fault.cut
        for offset in range(0, min(cut, len(body)), BLOCK):
            self.wfile.write(body[offset : min(offset + BLOCK, cut)])
            time.sleep(fault.pause)
        if fault.stall:
            time.sleep(fault.stall)
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Connection": "close"}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(root: Path, certificate: tuple[Path, Path] | None = None) -> Generator[DataServer]:
    """Serve a folder, over TLS where a certificate and its key are given."""
    with DataServer(root) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
            server.scheme = "https"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
