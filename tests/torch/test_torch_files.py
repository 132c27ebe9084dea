"""Files of torch.save that were cut off or changed: never taken for whole ones, never a crash."""

from __future__ import annotations

import io
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pytorch_models import torch_files
from pytorch_models.checkpoint import load_last
from zoo.options import TrainingError
from zoo.run_folder import RunFolder

CONTENT = {
    "model": {"weight": torch.arange(300.0).reshape(20, 15), "counter": torch.tensor(7)},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(20, 15)}}, "param_groups": [{"lr": 0.1}]},
    "scaler": {},
    "rows": [{"epoch": 1, "train_loss": 0.5, "valid_loss": None}],
}


def written(content: Any = CONTENT) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return isinstance(found, Tensor) and torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(same, found, expected))
    return bool(found == expected)


def test_a_flipped_bit_is_noticed_wherever_it_matters(tmp_path: Path) -> None:
    """torch.load alone gives other numbers for most of these."""
    run, whole, draw = RunFolder(tmp_path), written(), random.Random(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        place = draw.randrange(8 * len(whole))
        damaged[place // 8] ^= 1 << (place % 8)
        run.last.write_bytes(damaged)
        try:
            found = load_last(run)
        except TrainingError:
            refused += 1
        else:
            assert same(found, CONTENT), f"bit {place} went unnoticed"
    assert refused > 50


def test_a_file_that_ends_too_early_is_refused(tmp_path: Path) -> None:
    run, whole = RunFolder(tmp_path), written()
    for length in (0, 1, 3, 4, 30, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        run.last.write_bytes(whole[:length])
        with pytest.raises(TrainingError, match=r"last\.pt cannot be read as a checkpoint"):
            load_last(run)


def test_older_files_and_files_without_checksums_are_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    assert same(torch_files.read(path), CONTENT)
    before = torch.serialization.get_crc32_options()
    try:
        torch.serialization.set_crc32_options(False)
        torch.save(CONTENT, path)
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(torch_files.read(path), CONTENT)


class Hostile:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "hostile.pt"
    path.write_bytes(written(Hostile()) if zipped else pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(torch_files.DamagedFileError):
        torch_files.read(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["hostile.pt"]
