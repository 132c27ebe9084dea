"""What a training run refuses before any work, and the options beside the recipe."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")

from small_run import SmallNet, small_data, small_options  # noqa: E402

from pytorch_models import DenseNet  # noqa: E402
from pytorch_models.devices import check_device, set_seed  # noqa: E402
from pytorch_models.graphed_step import check_capturable  # noqa: E402
from pytorch_models.training import train  # noqa: E402


def test_amp_trains_in_bfloat16_on_a_cpu() -> None:
    seen: list[torch.dtype] = []
    set_seed(0)
    model = SmallNet()
    model.body[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    result = train(model, small_data(), small_options(amp=True))
    assert set(seen) == {torch.bfloat16}
    assert result.test_accuracy > 0.5


@pytest.mark.quick
def test_an_absent_gpu_is_an_error_before_any_work(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        with pytest.raises(ValueError, match="are visible"):
            check_device("cuda:99")
    else:
        with pytest.raises(ValueError, match="sees no GPU"):
            train(SmallNet(), small_data(), small_options(save=str(tmp_path / "run"), device="cuda"))
    assert not (tmp_path / "run").exists()


@pytest.mark.quick
def test_refusals_before_any_work(tmp_path: Path) -> None:
    data = small_data()
    with pytest.raises(ValueError, match="leaves nothing to train on"):
        train(SmallNet(), data, small_options(save=str(tmp_path / "run"), valid_size=10**6))
    frozen = SmallNet().requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        train(frozen, data, small_options(save=str(tmp_path / "run")))
    with pytest.raises(TypeError, match=r"^save must be the path of a folder, or None, not 3$"):
        small_options(save=3)
    assert not (tmp_path / "run").exists()


@pytest.mark.quick
def test_a_captured_step_is_refused_where_it_cannot_be() -> None:
    """On a GPU tests/gpu/test_gpu_graphs.py compares numbers."""
    with pytest.raises(ValueError, match=r"^cuda_graphs=True needs a GPU, and device is cpu"):
        small_options(cuda_graphs=True)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"^cuda_graphs=True needs one GPU, not cpu"):
            train(SmallNet(), small_data(), small_options(cuda_graphs=True, device="auto"))
    one, two = torch.device("cuda:0"), torch.device("cuda:1")
    with pytest.raises(ValueError, match="needs one GPU, not cuda:0, cuda:1"):
        check_capturable(SmallNet(), [one, two])
    check_capturable(DenseNet(efficient=True), [one])
    check_capturable(DenseNet(drop_rate=0.2), [one])
    for flags in ({"compressed": 2}, {"efficient": True, "drop_rate": 0.2}, {"opt_memory": 4, "drop_rate": 0.2}):
        with pytest.raises(ValueError, match="leave out"):
            check_capturable(DenseNet(**flags), [one])


def test_frozen_parameters_stay() -> None:
    model = SmallNet()
    model.body[0].requires_grad_(False)
    before = model.body[0].weight.clone()
    train(model, small_data(), small_options(n_epochs=1))
    assert torch.equal(model.body[0].weight, before)


def test_tensorboard_gets_every_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(SmallNet(), small_data(), small_options(save=str(tmp_path / "run"), tensorboard=True))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train_loss")] == [1, 2, 3]


def test_tensorboard_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        train(SmallNet(), small_data(), small_options(save=str(tmp_path / "run"), tensorboard=True))
    assert not (tmp_path / "run").exists()
