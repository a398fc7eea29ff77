"""One file over a real connection: whatever the server does, the file is whole or one line says why it is not."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offdyn_envs.datasets.sharing import transfer, web
from offdyn_envs.datasets.sharing.transfer import fetch_file, fetch_text
from offdyn_envs.datasets.sharing.web import check_url
from offdyn_envs.errors import OffDynError
from tests.datasets.server import DataServer, Fault, serve

SIZE = 300_000
BODY = np.random.default_rng(0).bytes(SIZE)
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served")
    (place / "file").write_bytes(BODY)
    (place / "text").write_text("Grüße", encoding="utf-8")
    return place


@pytest.fixture
def server(folder: Path) -> Generator[DataServer]:
    with serve(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PAUSE", 0.001)


def fetch(server: DataServer, path: Path) -> None:
    fetch_file(f"{server.url}/file", path, SIZE, DIGEST, name="file", quiet=True)


def refuse(server: DataServer, path: Path) -> str:
    with pytest.raises(OffDynError) as caught:
        fetch(server, path)
    assert str(caught.value).startswith(f"{server.url}/file: ")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_whole_file(server: DataServer, tmp_path: Path) -> None:
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    fetch(server, tmp_path / "file")  # Whole already: nothing is asked for.
    assert server.asked("file") == [None]


@pytest.mark.parametrize(
    "fault",
    [
        Fault(cut=1000),
        Fault(cut=123_456, reset=True),
        Fault(cut=100_000, no_length=True),
        Fault(mute="silence"),
        Fault(mute="noise"),
        Fault(status=500),
        Fault(status=503),
        Fault(status=429),
    ],
    ids=str,
)
def test_tries_again_and_continues(server: DataServer, tmp_path: Path, fault: Fault) -> None:
    server.once["file"] = [fault, fault]
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    ranges = server.asked("file")
    assert len(ranges) == 3
    if fault.cut and not fault.reset:  # A reset may take what was on its way with it.
        assert ranges[1:] == [f"bytes={fault.cut}-", f"bytes={2 * fault.cut}-"]


def test_a_connection_that_stalls(server: DataServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    server.once["file"] = [Fault(cut=150_000, stall=1.0)]
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked("file") == [None, "bytes=150000-"]


def test_slow_but_steady_is_no_fault(server: DataServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.5)
    server.always["file"] = Fault(pause=0.2)  # A second in all.
    fetch(server, tmp_path / "file")
    assert server.asked("file") == [None]


def test_a_later_call_continues(server: DataServer, tmp_path: Path) -> None:
    server.always["file"] = Fault(cut=0)
    server.once["file"] = [Fault(cut=200_000)]
    message = refuse(server, tmp_path / "file")
    assert f"gave up after {transfer.TRIES} tries; 200,000 of 300,000 bytes are here" in message
    assert (tmp_path / "file").read_bytes() == BODY[:200_000]
    server.always.clear()
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked("file")[-1] == "bytes=200000-"


def test_many_breaks_are_forgiven_while_it_goes_forward(server: DataServer, tmp_path: Path) -> None:
    server.once["file"] = [Fault(cut=20_000)] * 12
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    server.log.clear()
    server.always["file"] = Fault(cut=1)  # Forward, but no way to finish.
    refuse(server, tmp_path / "other")
    assert len(server.log) < 2 * transfer.TRIES


def test_server_without_ranges_begins_again(server: DataServer, tmp_path: Path) -> None:
    server.once["file"] = [Fault(cut=100_000)]
    server.always["file"] = Fault(no_range=True)
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    server.log.clear()
    server.always["file"] = Fault(no_range=True, cut=250_000)  # Breaks at the same place for ever.
    assert "gave up" in refuse(server, tmp_path / "other")
    assert len(server.log) < 2 * transfer.TRIES


@pytest.mark.parametrize("fault", [Fault(range_start=50_000), Fault(status=206, no_range=True), Fault(status=416)])
def test_wrong_range_begins_again(server: DataServer, tmp_path: Path, fault: Fault) -> None:
    server.once["file"] = [Fault(cut=100_000), fault]
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY
    assert server.asked("file") == [None, "bytes=100000-", None]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_refusal_is_final(server: DataServer, tmp_path: Path, status: int) -> None:
    server.always["file"] = Fault(status=status)
    assert f"answered {status}" in refuse(server, tmp_path / "file")
    assert len(server.log) == 1


def test_server_errors_are_tried_a_few_times(server: DataServer, tmp_path: Path) -> None:
    server.always["file"] = Fault(status=502)
    assert "answered 502 Bad Gateway; gave up after 5 tries" in refuse(server, tmp_path / "file")
    assert len(server.log) == transfer.TRIES


@pytest.mark.parametrize("fault", [Fault(size=SIZE - 1), Fault(size=SIZE + 1), Fault(size=SIZE + 9, no_length=True)])
def test_wrong_size_is_refused(server: DataServer, tmp_path: Path, fault: Fault) -> None:
    server.always["file"] = fault
    assert "bytes; expected 300,000" in refuse(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()
    (tmp_path / "file").write_bytes(BODY[:1000])  # The same when it is found out while continuing.
    assert "bytes; expected 300,000" in refuse(server, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_wrong_bytes_are_refused(server: DataServer, tmp_path: Path) -> None:
    server.always["file"] = Fault(flip=SIZE // 2)
    message = refuse(server, tmp_path / "file")
    assert "SHA-256" in message
    assert DIGEST in message
    assert not (tmp_path / "file").exists()
    server.always.clear()
    (tmp_path / "file").write_bytes(b"something else")  # A beginning that is not this file's.
    assert "SHA-256" in refuse(server, tmp_path / "file")
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_what_is_too_long_is_no_beginning(server: DataServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY + b"more")
    fetch(server, tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == BODY


def test_compressed_answer_is_refused(server: DataServer, tmp_path: Path) -> None:
    server.always["file"] = Fault(encoding="gzip")
    assert "Content-Encoding 'gzip'" in refuse(server, tmp_path / "file")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(server: DataServer, folder: Path, tmp_path: Path, status: int) -> None:
    with serve(folder) as other:
        server.always["file"] = Fault(status=status, to=f"{other.url}/file")
        other.once["file"] = [Fault(cut=100_000)]
        fetch(server, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == BODY
        assert other.asked("file") == [None, "bytes=100000-"]


@pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/file", "data:,x"])
def test_redirect_to_another_scheme(server: DataServer, tmp_path: Path, to: str) -> None:
    server.always["file"] = Fault(to=to)
    assert "redirect" in refuse(server, tmp_path / "file").lower()


def test_redirect_in_a_circle(server: DataServer, tmp_path: Path) -> None:
    server.always["file"] = Fault(to=f"{server.url}/file")
    assert "answered 302" in refuse(server, tmp_path / "file")
    assert len(server.log) < 30


def test_no_server(tmp_path: Path, folder: Path) -> None:
    with serve(folder) as server:
        pass
    assert "no connection" in refuse(server, tmp_path / "file")
    with pytest.raises(OffDynError, match="no connection"):
        fetch_text(f"{server.url}/manifest.json")


def test_full_disk_is_no_broken_connection(server: DataServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, block: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write = transfer._write
    monkeypatch.setattr(transfer, "_write", lambda file, block, path: write(Full(), block, path))
    with pytest.raises(OffDynError, match=r"file: No space left on device; what arrived is kept"):
        fetch(server, tmp_path / "file")
    assert len(server.log) == 1


def test_text(server: DataServer, monkeypatch: pytest.MonkeyPatch) -> None:
    server.once["text"] = [Fault(cut=3), Fault(status=500)]
    assert fetch_text(f"{server.url}/text") == "Grüße"
    server.once["text"] = [Fault(size=3)]
    with pytest.raises(OffDynError, match="UTF-8"):
        fetch_text(f"{server.url}/text")
    monkeypatch.setattr(transfer, "TEXT_LIMIT", 10_000)
    with pytest.raises(OffDynError, match="more than 10,000 bytes; expected a manifest"):
        fetch_text(f"{server.url}/file")


FAULTS = st.builds(
    Fault,
    status=st.sampled_from([None, None, None, 500]),
    cut=st.none() | st.integers(0, SIZE),
    reset=st.booleans(),
    no_range=st.booleans(),
    no_length=st.booleans(),
    range_start=st.sampled_from([None, None, None, 7]),
    flip=st.sampled_from([None, None, None, 0, SIZE - 1]),
    mute=st.sampled_from(["", "", "", "silence", "noise"]),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(faults=st.lists(FAULTS, max_size=6))
def test_any_sequence_of_faults_ends_whole_or_refused(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, faults: list[Fault]
) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    with serve(folder) as server:
        server.once["file"] = list(faults)
        try:
            fetch(server, path)
        except OffDynError as error:
            assert "SHA-256" in str(error) or "gave up" in str(error)
            server.once.clear()
            try:
                fetch(server, path)
            except OffDynError as second:  # What an earlier call left may be wrong; it goes, and then all is well.
                assert "SHA-256" in str(second)
                fetch(server, path)
    assert path.read_bytes() == BODY


@pytest.mark.parametrize(
    "url",
    [
        "",
        "data.example.org",
        "ftp://host/x",
        "file:///x",
        "http://",
        "https://u:p@host/x",
        "http://host/x?y",
        "http://h:0",
        "http://h:99999",
        "http://[::1",
        "http://host/a b",
        "http://höst/x",
        "http://host/\nx",
        "HTTP//x",
        "http://h/#x",
    ],
)
def test_bad_address(url: str) -> None:
    with pytest.raises(OffDynError, match="is not a base address"):
        check_url(url)


def test_good_address() -> None:
    assert check_url("https://data.example.org:8443/a/b//") == "https://data.example.org:8443/a/b"
    assert check_url("http://[::1]:80/") == "http://[::1]:80"


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_loopback_needs_no_proxy(
    server: DataServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    fetch(server, tmp_path / "file")
    fetch_text(f"{server.url.replace('127.0.0.1', 'localhost')}/text")


def test_proxy_is_used_for_other_machines(server: DataServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", server.url)
    fetch_file("http://nobody.invalid/file", tmp_path / "file", SIZE, DIGEST, name="file", quiet=True)
    assert (tmp_path / "file").read_bytes() == BODY


def test_never_from_https_to_http() -> None:
    request = urllib.request.Request("https://host/file")
    answer = io.BytesIO()
    with pytest.raises(OffDynError, match=r"redirects to 'http://host/file'; allowed: https$"):
        web._Redirects().redirect_request(request, answer, 302, "Found", {}, "http://host/file")
    assert answer.closed


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_https(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
    files = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    with serve(folder, (certificate, key)) as server:
        begun = time.monotonic()
        assert "its certificate is not accepted" in refuse(server, tmp_path / "file")
        assert time.monotonic() - begun < 5.0
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert ssl.get_default_verify_paths().cafile == str(certificate)
        server.once["file"] = [Fault(cut=100_000)]
        fetch(server, tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == BODY
        server.always["file"] = Fault(to=server.url.replace("https", "http") + "/file")
        assert "allowed: https" in refuse(server, tmp_path / "other")
