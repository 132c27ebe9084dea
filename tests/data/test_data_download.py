"""Downloading: fresh, resumed, refused, broken, wrong, killed, and by two processes at once."""

from __future__ import annotations

import hashlib
import os
import pty
import re
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cifar_archives as made
import numpy as np
import pytest
from range_server import RangeServer, running

import zoo.data
from zoo.data import cifar_layouts
from zoo.data.datasets import RemoteFile
from zoo.data.download import fetch

ROOT = Path(__file__).parents[2]
CONTENT = np.random.default_rng(0).bytes(1_000_000)
REMOTE = RemoteFile("file.bin", "http://127.0.0.1:9/official", hashlib.md5(CONTENT).hexdigest())
CHILD = """
import sys
from pathlib import Path
from zoo.data.datasets import RemoteFile
from zoo.data.download import fetch
name, md5, url, folder = sys.argv[1:]
fetch(RemoteFile(name, url, md5), Path(folder))
"""


@pytest.fixture
def server() -> Iterator[RangeServer]:
    with running(CONTENT) as server:
        yield server


def start_child(server: RangeServer, folder: Path) -> subprocess.Popen[str]:
    """Another process that downloads REMOTE from `server`."""
    command = [sys.executable, "-c", CHILD, REMOTE.name, REMOTE.md5, server.url, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.quick
def test_fresh_download(server: RangeServer, tmp_path: Path) -> None:
    path = fetch(REMOTE, tmp_path / "new" / "folder", url_base=server.url)
    assert path.read_bytes() == CONTENT
    assert server.requests == [("/files/file.bin", None)]
    assert names(path.parent) == ["file.bin"]
    assert fetch(REMOTE, path.parent, url_base=server.url) == path
    assert len(server.requests) == 1, "a file that is there is not downloaded again"


@pytest.mark.quick
def test_resume_asks_for_the_rest_only(server: RangeServer, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:600_000])
    assert fetch(REMOTE, tmp_path, url_base=server.url).read_bytes() == CONTENT
    assert server.requests == [("/files/file.bin", "bytes=600000-")]
    assert names(tmp_path) == ["file.bin"]


def test_a_whole_part_needs_no_server(tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT)
    assert fetch(REMOTE, tmp_path).read_bytes() == CONTENT


def test_a_server_that_ignores_ranges(server: RangeServer, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:600_000])
    assert fetch(REMOTE, tmp_path, url_base=server.url).read_bytes() == CONTENT
    assert len(server.requests) == 1


def test_a_server_that_sends_another_range(server: RangeServer, tmp_path: Path) -> None:
    server.range_shift = 5
    (tmp_path / "file.bin.part").write_bytes(CONTENT[:600_000])
    assert fetch(REMOTE, tmp_path, url_base=server.url).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["bytes=600000-", None]


def test_a_part_longer_than_the_file_starts_over(server: RangeServer, tmp_path: Path) -> None:
    (tmp_path / "file.bin.part").write_bytes(CONTENT + b"more")
    assert fetch(REMOTE, tmp_path, url_base=server.url).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == ["bytes=1000004-", None]


@pytest.mark.quick
@pytest.mark.parametrize("resumed", [False, True])
def test_wrong_checksum_leaves_no_file(resumed: bool, server: RangeServer, tmp_path: Path) -> None:
    if resumed:
        (tmp_path / "file.bin.part").write_bytes(b"wrong" * 100)
    else:
        server.content = b"<html>please log in</html>"
    with pytest.raises(ValueError, match=rf"file\.bin from http.* has the MD5 [0-9a-f]{{32}} .*needed is {REMOTE.md5}"):
        fetch(REMOTE, tmp_path, url_base=server.url)
    assert names(tmp_path) == []
    server.content = CONTENT
    assert fetch(REMOTE, tmp_path, url_base=server.url).read_bytes() == CONTENT


@pytest.mark.parametrize("status", [404, 403, 500])
@pytest.mark.parametrize("part", [b"", CONTENT[:1000]])
def test_the_server_refuses(status: int, part: bytes, server: RangeServer, tmp_path: Path) -> None:
    server.status = status
    (tmp_path / "file.bin.part").write_bytes(part)
    with pytest.raises(
        FileNotFoundError, match=rf"{re.escape(server.url)}/file\.bin failed: the server answered {status}"
    ):
        fetch(REMOTE, tmp_path, url_base=server.url)
    assert (tmp_path / "file.bin.part").read_bytes() == part, "what came before is kept"


@pytest.mark.parametrize("says_length", [True, False])
def test_connection_breaks_halfway_and_the_next_call_goes_on(
    says_length: bool, server: RangeServer, tmp_path: Path
) -> None:
    server.cut_after = 300_000
    with pytest.raises(
        ConnectionError, match=r"broke after 0\.3 of 1\.0 MB.*kept in .*file\.bin\.part: run the same again"
    ):
        fetch(REMOTE, tmp_path, url_base=server.url)
    with pytest.raises(ConnectionError, match=r"broke after 0\.6 of 1\.0 MB"):
        fetch(REMOTE, tmp_path, url_base=server.url)
    server.cut_after, server.says_length = None, says_length
    assert fetch(REMOTE, tmp_path, url_base=server.url).read_bytes() == CONTENT
    assert [wanted for _, wanted in server.requests] == [None, "bytes=300000-", "bytes=600000-"]


@pytest.mark.parametrize("address", ["file:///etc", "ftp://127.0.0.1/x", "127.0.0.1/x"])
def test_other_addresses_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="url_base must start with http"):
        fetch(REMOTE, tmp_path, url_base=address)


def test_a_full_disk_is_seen_before(server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 400_000}))
    with pytest.raises(OSError, match=r"has 0 MB free; file\.bin needs 1 MB"):
        fetch(REMOTE, tmp_path, url_base=server.url)


@pytest.mark.quick
def test_killed_halfway_and_resumed(server: RangeServer, tmp_path: Path) -> None:
    server.chunk_bytes, server.chunk_seconds = 2**15, 0.05
    part = tmp_path / "file.bin.part"
    child = start_child(server, tmp_path)
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size >= 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.kill()
    child.communicate()
    assert not (tmp_path / "file.bin").exists()
    had = part.stat().st_size
    server.chunk_seconds = 0
    assert fetch(REMOTE, tmp_path, url_base=server.url).read_bytes() == CONTENT
    assert server.requests[1:] == [("/files/file.bin", f"bytes={had}-")]


@pytest.mark.quick
def test_two_processes_download_once(server: RangeServer, tmp_path: Path) -> None:
    server.chunk_bytes, server.chunk_seconds = 2**16, 0.05
    children = [start_child(server, tmp_path) for _ in range(2)]
    outputs = [child.communicate(timeout=30)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert (tmp_path / "file.bin").read_bytes() == CONTENT
    assert server.requests == [("/files/file.bin", None)]
    assert names(tmp_path) == ["file.bin"]
    assert "another process is downloading it" in "".join(outputs)


def test_progress_is_lines_in_a_pipe(server: RangeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fetch(REMOTE, tmp_path / "a", url_base=server.url)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[-1] == "file.bin: 1.0 of 1.0 MB (100 %)"
    fetch(REMOTE, tmp_path / "b", url_base=server.url, progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_is_a_bar_on_a_terminal(server: RangeServer, tmp_path: Path) -> None:
    pytest.importorskip("tqdm", reason="the bar is tqdm's")
    controller, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 80))
    command = [sys.executable, "-c", CHILD, REMOTE.name, REMOTE.md5, server.url, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, stderr=terminal, check=True, timeout=30)
    os.close(terminal)
    shown = os.read(controller, 10_000).decode()
    os.close(controller)
    assert "\r" in shown
    assert "100%" in shown
    assert "1.00M/1.00M" in shown


def assert_says_what_to_do(message: str, folder: Path) -> None:
    """Acceptance: which file, where, which checksum, which address, and what needs no download."""
    assert "cifar-10-python.tar.gz" in message
    assert str(folder) in message
    assert "c58f30108f718f92721af3b95e74349a" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in message
    assert "mnist5k, digits, seq-mnist, synthetic" in message


@pytest.mark.quick
def test_offline_cifar10_fails_fast_and_says_what_to_do(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(FileNotFoundError) as raised:
        zoo.data.load("cifar10", tmp_path, url_base="http://no-such-host.invalid")
    assert time.monotonic() - started < 4
    assert_says_what_to_do(str(raised.value), tmp_path)
    assert names(tmp_path) == []


@pytest.mark.quick
def test_no_download_wanted(tmp_path: Path) -> None:
    for name in ("cifar10", "cifar100", "svhn"):
        with pytest.raises(FileNotFoundError, match="was not downloaded: download=False"):
            zoo.data.load(name, tmp_path, download=False)
    with pytest.raises(FileNotFoundError) as raised:
        zoo.data.load("cifar10", tmp_path, download=False)
    assert_says_what_to_do(str(raised.value), tmp_path)
    assert names(tmp_path) == []


def test_a_server_that_never_answers_is_given_up_in_time(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        started = time.monotonic()
        with pytest.raises(FileNotFoundError, match=r"failed: no answer within 0\.3 s"):
            fetch(REMOTE, tmp_path, url_base=f"http://127.0.0.1:{silent.getsockname()[1]}", connect_seconds=0.3)
        assert time.monotonic() - started < 2


def test_nobody_listens(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(FileNotFoundError, match=r"failed: .*refused"):
        fetch(REMOTE, tmp_path, url_base=f"http://127.0.0.1:{port}")


def serve_tiny(monkeypatch: pytest.MonkeyPatch, dataset: str, content: bytes) -> None:
    """Makes the MD5 of `content` the one that the download of `dataset` needs."""
    md5 = hashlib.md5(content).hexdigest()
    changed = tuple(
        replace(layout, archive=replace(layout.archive, md5=md5)) if layout.dataset == dataset else layout
        for layout in cifar_layouts.LAYOUTS
    )
    monkeypatch.setattr(cifar_layouts, "LAYOUTS", changed)


@pytest.mark.quick
@pytest.mark.parametrize("dataset", ["cifar10", "cifar100"])
def test_load_downloads_and_then_works_offline(
    dataset: str, server: RangeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.content = made.official_tar(dataset, "python")
    serve_tiny(monkeypatch, dataset, server.content)
    arrays = made.official_files(dataset, "python")[1]
    for _ in range(2):
        data = zoo.data.load(dataset, tmp_path, url_base=server.url, progress=False)
        np.testing.assert_array_equal(data.train_images, arrays["train_images"], strict=True)
        np.testing.assert_array_equal(data.test_labels, arrays["test_labels"], strict=True)
    number = dataset.removeprefix("cifar")
    assert server.requests == [(f"/files/cifar-{number}-python.tar.gz", None)]


def test_load_keeps_to_the_official_checksum(server: RangeServer, tmp_path: Path) -> None:
    server.content = made.official_tar("cifar10", "python")
    with pytest.raises(ValueError, match="needed is c58f30108f718f92721af3b95e74349a"):
        zoo.data.load("cifar10", tmp_path, url_base=server.url, progress=False)
    assert not (tmp_path / "cifar-10-python.tar.gz").exists()
