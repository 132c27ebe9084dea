"""Two processes that would train into one folder: the second is refused, and nothing of the first is touched."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("fcntl", reason="this system has no locks that end with their process")

from zoo import folder_lock
from zoo.folder_lock import hold
from zoo.run_folder import RunFolderError

ROOT = Path(__file__).resolve().parent.parent
HOLDER = """
import sys, time
from zoo.folder_lock import hold
with hold(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""
TINY = ("--data", "digits", "--depth", "10", "--growth_rate", "4", "--valid_size", "1300", "--n_epochs", "1")


@contextlib.contextmanager
def another_process(folder: Path) -> object:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.quick
def test_a_folder_is_held_by_one_process_and_free_when_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with another_process(folder):
        begin = time.monotonic()
        with (
            pytest.raises(RunFolderError, match=r"another process trains into .*run: give another --save"),
            hold(folder, 0.2),
        ):
            pytest.fail("both hold it")
        assert 0.2 <= time.monotonic() - begin < 5
    with hold(folder, patience_seconds=5):
        assert list(folder.iterdir()) == []


def test_a_killed_processs_folder_is_waited_for(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.3); os.kill({process.pid}, 9)"]).wait()
        with hold(tmp_path):
            pass


def test_an_exception_lets_go_and_no_folder_holds_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyError), hold(tmp_path):
        raise KeyError
    with hold(tmp_path, 0), hold(None), hold(None):
        pass


def test_where_no_folder_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="cannot write there"), hold(tmp_path / "file" / "run"):
        pass


def test_the_demo_does_not_go_on_with_a_run_that_another_process_goes_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
    pytest.importorskip("fire", reason="fire is not installed: pip install 'memory-efficient-zoo[demo]'")
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'memory-efficient-zoo[demo]'")
    monkeypatch.syspath_prepend(str(ROOT))
    import demo

    monkeypatch.setattr(demo, "hold", lambda folder: folder_lock.hold(folder, 0.1))
    with another_process(tmp_path / "run"):
        with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
            assert demo.main([*TINY, "--save", str(tmp_path / "run")]) == 2
        assert err.getvalue().startswith("demo.py: another process trains into ")
        assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.slow
def test_of_two_commands_started_at_once_one_trains(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
    command = [sys.executable, "demo.py", *TINY, "--save", str(tmp_path / "run")]
    both = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=200)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert sum("already holds a run" in error or "another process" in error for error in errors) == 1
    assert (tmp_path / "run" / "result.json").exists()
