"""Downloads against a real server on this machine that drops lines, ignores ranges or sends wrong bytes."""

from __future__ import annotations

import hashlib
import http.server
import os
import resource
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ghostnet import download as room
from ghostnet.download import DownloadError, download
from ghostnet.errors import InputError

PAYLOAD = bytes(range(256)) * 4096  # 1 MiB
DIGEST = hashlib.sha256(PAYLOAD).hexdigest()


@dataclass
class Behaviour:
    """What the server does; `ranges` is what it was asked for, one entry a request."""

    supports_range: bool = True
    status: int = 200
    cuts: list[int] = field(default_factory=list)  # bytes sent before the line drops, one a request
    corrupt: int = 0  # this many requests get a wrong byte
    wrong_range: bool = False
    ranges: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    behaviour: Behaviour

    def do_GET(self) -> None:
        behaviour = self.behaviour
        asked = self.headers.get("Range")
        behaviour.ranges.append(asked)
        behaviour.paths.append(self.path)
        if behaviour.status != 200:
            self.send_error(behaviour.status)
            return
        start = int(asked[len("bytes=") : -1]) if asked and behaviour.supports_range else 0
        if start >= len(PAYLOAD):
            self.send_error(416)
            return
        body = bytearray(PAYLOAD[start:])
        if behaviour.corrupt > 0:
            behaviour.corrupt -= 1
            body[len(body) // 2] ^= 1
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            first = start + 1 if behaviour.wrong_range else start
            self.send_header("Content-Range", f"bytes {first}-{len(PAYLOAD) - 1}/{len(PAYLOAD)}")
        self.end_headers()
        self.wfile.write(body[: behaviour.cuts.pop(0)] if behaviour.cuts else body)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Behaviour]]:
    behaviour = Behaviour()
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    monkeypatch.setattr(room, "_PAUSE_S", 0.0)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}/file", behaviour
        running.shutdown()
        thread.join()


def _leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_arrives_whole_and_is_described(
    server: tuple[str, Behaviour], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "new" / "file"
    assert download(server[0], target, sha256=DIGEST, size=len(PAYLOAD), description="the file") == target
    assert target.read_bytes() == PAYLOAD
    assert _leftovers(target.parent) == ["file"]
    printed = capsys.readouterr()
    assert "the file: 1/1 MB" in printed.err
    assert printed.out == ""


def test_a_dropped_line_is_resumed_where_it_stopped(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.cuts = [300_000, 200_000]
    download(url, tmp_path / "file", sha256=DIGEST, progress=False)
    assert (tmp_path / "file").read_bytes() == PAYLOAD
    assert behaviour.ranges == [None, "bytes=300000-", "bytes=500000-"]


def test_an_earlier_call_is_resumed(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    (tmp_path / "file.part").write_bytes(PAYLOAD[:777])
    download(url, tmp_path / "file", sha256=DIGEST, progress=False)
    assert (tmp_path / "file").read_bytes() == PAYLOAD
    assert behaviour.ranges == ["bytes=777-"]


def test_an_earlier_call_that_was_complete_needs_no_request(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    (tmp_path / "file.part").write_bytes(PAYLOAD)
    download(url, tmp_path / "file", sha256=DIGEST, size=len(PAYLOAD), progress=False)
    assert behaviour.ranges == []
    assert _leftovers(tmp_path) == ["file"]


def test_without_a_hash_an_old_beginning_is_not_trusted(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    (tmp_path / "file.part").write_bytes(b"yesterday")
    download(url, tmp_path / "file", progress=False)
    assert (tmp_path / "file").read_bytes() == PAYLOAD
    assert behaviour.ranges == [None]


def test_a_server_without_ranges_starts_anew(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.supports_range = False
    behaviour.cuts = [300_000]
    download(url, tmp_path / "file", sha256=DIGEST, progress=False)
    assert (tmp_path / "file").read_bytes() == PAYLOAD
    assert behaviour.ranges == [None, "bytes=300000-"]


def test_a_part_longer_than_the_file_is_thrown_away(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    (tmp_path / "file.part").write_bytes(PAYLOAD + b"more")
    download(url, tmp_path / "file", sha256=DIGEST, progress=False)
    assert (tmp_path / "file").read_bytes() == PAYLOAD
    assert behaviour.ranges == [f"bytes={len(PAYLOAD) + 4}-", None]


def test_one_wrong_byte_is_noticed_and_the_file_fetched_again(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.corrupt = 1
    download(url, tmp_path / "file", sha256=DIGEST, progress=False)
    assert (tmp_path / "file").read_bytes() == PAYLOAD
    assert behaviour.ranges == [None, None]


def test_wrong_bytes_twice_is_one_clear_error_and_leaves_nothing(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.corrupt = 2
    with pytest.raises(DownloadError, match="fetched twice and neither time has the SHA-256"):
        download(url, tmp_path / "file", sha256=DIGEST, progress=False)
    assert _leftovers(tmp_path) == []


def test_a_line_that_always_drops_gives_up_and_keeps_what_came(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.cuts = [1000] + [0] * 20
    with pytest.raises(DownloadError, match=f"ended after 1000 of {len(PAYLOAD)} bytes"):
        download(url, tmp_path / "file", sha256=DIGEST, progress=False)
    assert len(behaviour.ranges) == 5  # the first, which got somewhere, and four in a row that did not
    assert (tmp_path / "file.part").read_bytes() == PAYLOAD[:1000]


def test_an_answer_from_elsewhere_in_the_file_is_refused(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    url, behaviour = server
    behaviour.wrong_range = True
    (tmp_path / "file.part").write_bytes(PAYLOAD[:10])
    with pytest.raises(DownloadError, match="another range than was asked for"):
        download(url, tmp_path / "file", sha256=DIGEST, progress=False)


def test_another_length_is_refused_before_it_is_fetched(
    server: tuple[str, Behaviour], tmp_path: Path
) -> None:
    with pytest.raises(DownloadError, match=f"has {len(PAYLOAD)} bytes where 5 are expected"):
        download(server[0], tmp_path / "file", size=5, progress=False)
    assert _leftovers(tmp_path) == []


def test_an_http_error_is_told_at_once(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    behaviour.status = 404
    with pytest.raises(DownloadError, match="HTTP 404 Not Found"):
        download(url, tmp_path / "file", progress=False)
    assert len(behaviour.ranges) == 1


def test_a_host_that_does_not_answer_is_told_at_once(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"cannot fetch http://127\.0\.0\.1:9/file: "):  # the discard port
        download("http://127.0.0.1:9/file", tmp_path / "file", progress=False)
    assert server[1].ranges == []


def test_a_proxy_of_the_environment_is_used(
    server: tuple[str, Behaviour], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, behaviour = server
    monkeypatch.setenv("http_proxy", url.removesuffix("/file"))
    download("http://data.invalid/far", tmp_path / "file", sha256=DIGEST, progress=False)
    assert behaviour.paths == ["http://data.invalid/far"]


def test_a_full_disk_is_not_taken_for_a_dropped_line(server: tuple[str, Behaviour], tmp_path: Path) -> None:
    url, behaviour = server
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            download(url, tmp_path / "file", sha256=DIGEST, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not isinstance(caught.value, DownloadError)
    assert len(behaviour.ranges) == 1


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/file", "file:///etc/hostname", "file"])
def test_other_schemes_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must start with http:// or https://"):
        download(url, tmp_path / "file")


def test_what_does_not_speak_http_is_told_without_its_bytes(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"\x00\x1b[31mSSH-2.0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DownloadError, match=r"does not speak HTTP \(BadStatusLine\)") as error:
            download(f"http://127.0.0.1:{listening.getsockname()[1]}/file", tmp_path / "file", progress=False)
        thread.join()
    assert "\x1b" not in str(error.value)
