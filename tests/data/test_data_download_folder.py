"""The folder of downloads: what is said where it cannot be written, and that its locks keep out and go away."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from zoo.data.datasets import RemoteFile
from zoo.data.download import fetch

REMOTE = RemoteFile("file.bin", "http://127.0.0.1:9/official", "0" * 32)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permission bits bind neither root nor Windows")
def test_a_read_only_folder_names_the_flag(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match=rf"--data_dir {tmp_path}: file\.bin is not there and cannot be written there"):
        fetch(REMOTE, tmp_path)


def test_a_folder_that_cannot_be_made_names_the_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--data_dir .*give another --data_dir"):
        fetch(REMOTE, tmp_path / "file" / "below")


def test_a_lock_that_its_holder_removed_keeps_nobody_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While one waits, the holder fails and removes the file: the waiting one must lock the new file."""
    from zoo.data import download

    path = tmp_path / "lock"
    try_lock, first = download._try_lock, []

    def removed_meanwhile(file: object) -> bool:
        if not first:
            first.append(file)
            path.unlink()
        return try_lock(file)  # type: ignore[arg-type]

    monkeypatch.setattr(download, "_try_lock", removed_meanwhile)
    with download._locked(path, None), path.open("ab") as other:
        assert not try_lock(other)
    assert not path.exists()
