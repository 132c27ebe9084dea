"""Several processes through MXNet's kvstore train as one does; what starts them otherwise is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mxnet_networks import mx

from mxnet_memonger.launch import launch, main
from mxnet_memonger.workers import Workers
from zoo.options import RefusedOptionError

ROOT = Path(__file__).resolve().parents[2]
WORKER = str(Path(__file__).parent / "kv_worker.py")


def test_two_workers_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    subprocess.run([sys.executable, WORKER, str(tmp_path / "one")], check=True, timeout=120)
    assert launch(2, [WORKER, str(tmp_path / "two")]) == 0
    alone, first, second = (dict(np.load(tmp_path / f"{name}.npz")) for name in ("one/0", "two/0", "two/1"))
    for name, array in alone.items():
        assert np.array_equal(first[name], second[name]), name
        assert np.abs(first[name] - array).max() <= 1e-4 * max(1, np.abs(array).max()), name


def test_a_worker_that_fails_ends_all(tmp_path: Path) -> None:
    script = tmp_path / "fails.py"
    script.write_text("import os, sys, time\nif os.environ['RANK'] == '1': sys.exit(3)\ntime.sleep(60)\n")
    assert launch(2, [str(script)]) == 3


def test_other_launchers_are_refused() -> None:
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    with pytest.raises(RefusedOptionError, match=r"python -m mxnet_memonger\.launch"):
        Workers.from_environment(torchrun)
    with pytest.raises(SystemExit, match="2"):
        main(["--workers", "0", "demo.py"])


def test_a_single_process_has_nobody_to_add() -> None:
    alone = Workers.from_environment({name: value for name, value in os.environ.items() if name != "RANK"})
    array = mx.nd.ones(2)
    alone.add_up({"a": array})
    alone.share({"a": array})
    alone.wait()
    assert (alone.rank, alone.world, array.asnumpy().tolist()) == (0, 1, [1, 1])
