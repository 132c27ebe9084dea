"""The history of a GPU's allocator, with a double in the place of CUDA's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pytorch_models.planning import snapshot


@pytest.mark.quick
def test_a_step_is_recorded_written_in_one_go_and_the_recording_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, said = nn.Linear(3, 2), list[str]()
    with pytest.raises(ValueError, match="the model is on cpu"):
        snapshot.write_cuda_snapshot(model, (4, 3), tmp_path / "memory.pickle")

    def record(enabled: str | None = "all", max_entries: int = 0) -> None:
        said.append("off" if enabled is None else f"on for {max_entries}")

    def dump(path: str) -> None:
        said.append("gradients" if model.weight.grad is not None else "no step was run")
        Path(path).write_bytes(b"history")

    monkeypatch.setattr(snapshot, "device_type_of", lambda tensors: "cuda")
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", record)
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", dump)
    path = snapshot.write_cuda_snapshot(model, (4, 3), tmp_path / "folder" / "memory.pickle")
    assert path.read_bytes() == b"history"
    assert [one.name for one in path.parent.iterdir()] == ["memory.pickle"]
    assert said == ["on for 1000000", "gradients", "off"]
    assert model.weight.grad is None
    with pytest.raises(RuntimeError, match="shapes"):
        snapshot.write_cuda_snapshot(model, (4, 5), path)
    assert said[-1] == "off", "it ends when the step fails, too"
    assert path.read_bytes() == b"history"
