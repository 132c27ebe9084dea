"""Several processes train as one does: same loss, every image counted once, one process's errors reach the caller."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")

from small_run import SmallNet, small_data, small_options  # noqa: E402

from pytorch_models import DenseNet  # noqa: E402
from pytorch_models.devices import set_seed  # noqa: E402
from pytorch_models.distributed import train_distributed  # noqa: E402
from pytorch_models.training import train  # noqa: E402
from zoo.options import TrainingError  # noqa: E402
from zoo.run_folder import RunFolder  # noqa: E402

TWO_CPUS = (torch.device("cpu"), torch.device("cpu"))


def fresh_model() -> SmallNet:
    set_seed(0)
    return SmallNet(norm=False)  # BatchNorm sees half a batch per process, so it rightly differs


def test_two_processes_equal_one(tmp_path: Path) -> None:
    # 79 training images leave a last batch of 15, shared out as 8 and 7; 17 validation and 50 test images do not halve.
    data, changes = small_data(), {"valid_size": 17, "n_epochs": 2}
    alone = fresh_model()
    expected = train(alone, data, small_options(**changes))
    together, options = fresh_model(), small_options(save=str(tmp_path / "run"), **changes)
    result = train_distributed(together, data, options, TWO_CPUS, RunFolder.open(options.settings()))
    for one, two in zip(expected.metrics, result.metrics, strict=True):
        for name in ("train_loss", "valid_loss", "train_accuracy", "valid_accuracy", "lr"):
            assert two[name] == pytest.approx(one[name], rel=1e-5), name
    assert (result.test_loss, result.test_accuracy) == pytest.approx(
        (expected.test_loss, expected.test_accuracy), rel=1e-5
    )
    for one, two in zip(alone.state_dict().values(), together.state_dict().values(), strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]


@pytest.mark.slow
def test_running_statistics_are_the_first_process_s_everywhere(tmp_path: Path) -> None:
    """Every process evaluates with the statistics that are saved, so what it reports is true of the saved weights."""
    set_seed(0)
    model, data, options = (
        SmallNet(),
        small_data(),
        small_options(save=str(tmp_path / "run"), n_epochs=1, valid_size=40),
    )
    result = train_distributed(model, data, options, TWO_CPUS, RunFolder.open(options.settings()))
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    saved = SmallNet()
    saved.load_state_dict(torch.load(tmp_path / "run" / "best.pt", weights_only=True))
    _, held_back = data.split(40, 0)
    logits = saved.eval()((torch.from_numpy(data.train_images[held_back]).float() / 255 - mean) / std).detach()
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(data.train_labels[held_back]))
    assert result.metrics[0]["valid_loss"] == pytest.approx(float(expected), rel=1e-5)


def test_an_error_in_one_process_is_the_error_of_the_run() -> None:
    model = fresh_model()
    model.spoil_after_calls = 2
    with pytest.raises(TrainingError, match=r"^epoch 1, step 3: the training loss is nan"):
        train_distributed(model, small_data(), small_options(), TWO_CPUS)


@pytest.mark.slow
def test_an_efficient_densenet_trains_in_two_processes_as_the_plain_one() -> None:
    data, options = small_data(), small_options(n_epochs=1, lr=0.01)
    losses = []
    for efficient in (False, True):
        set_seed(0)
        model = DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=4, efficient=efficient)
        result = train_distributed(model, data, options, TWO_CPUS)
        losses.append((result.metrics[0]["train_loss"], result.test_loss))
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_norms_over_several_processes_need_a_gpu_or_a_model_that_has_its_own() -> None:
    set_seed(0)
    with pytest.raises(TrainingError, match=r"^sync_batchnorm on a CPU: torch's norm over .* needs GPUs"):
        train_distributed(SmallNet(), small_data(), small_options(sync_batchnorm=True), TWO_CPUS)


@pytest.mark.slow
def test_with_joint_statistics_two_processes_equal_one() -> None:
    """Norms in training mode: the last batch's shares differ in size, and count as much as they hold."""
    resnet = pytest.importorskip("pytorch_models.resnet", reason="the models with joint statistics on a CPU")
    losses = []
    for devices in (TWO_CPUS[:1], TWO_CPUS):
        set_seed(0)
        model = resnet.ResNet("basic", (1, 1), width=4, num_classes=4, efficient=True)
        options = small_options(n_epochs=2, lr=0.02, sync_batchnorm=True, valid_size=17)
        result = (
            train(model, small_data(), options)
            if len(devices) == 1
            else train_distributed(model, small_data(), options, devices)
        )
        losses.append([row[name] for row in result.metrics for name in ("train_loss", "valid_loss")])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
