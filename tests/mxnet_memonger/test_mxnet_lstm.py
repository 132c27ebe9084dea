"""LSTMs as Symbols: PyTorch's numbers, planned = unplanned to the bit in fewer bytes, buckets, and training."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mxnet_networks import assert_same_bits, mx

import mxnet_memonger
import zoo
from mxnet_memonger import LSTM, build_model, measure_step, train
from mxnet_memonger.step import StepRunner
from mxnet_memonger.weights import canonical_weights, set_canonical_weights
from zoo.data.text_data import TextData
from zoo.frameworks import FRAMEWORKS, why_missing
from zoo.lstm import VARIANTS
from zoo.options import TrainingOptions
from zoo.policy import MemoryPolicy

ROOT = Path(__file__).resolve().parents[2]
SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "rows": ((4, 1, 12, 8), {"input_size": 8, "hidden_size": 6}),
    "rows, both ways": ((4, 1, 12, 8), {"input_size": 8, "hidden_size": 6, "bidirectional": True}),
    "rows, dropout": ((4, 3, 12, 2), {"input_size": 6, "hidden_size": 8, "drop_rate": 0.4}),
    "a sequence": ((4, 12, 8), {"input_size": 8, "hidden_size": 6, "num_layers": 3}),
    "pixels": ((4, 2, 4, 3), {"reads": "pixels", "input_size": 2, "hidden_size": 5, "num_layers": 1}),
    "tokens": ((4, 12), {"reads": "tokens", "input_size": 4, "hidden_size": 6, "num_classes": 11}),
    "tokens, dropout": ((4, 12), {"reads": "tokens", "input_size": 4, "hidden_size": 8, "drop_rate": 0.4}),
    "one token": ((4, 1), {"reads": "tokens", "input_size": 4, "hidden_size": 6}),
}


def batch(model: Any, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return model.random_inputs(shape, draw), draw.integers(0, model.spec.num_classes, model.label_shape(shape))


def step(model: Any, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Outputs and gradients of a training step."""
    runner = StepRunner(model, mx.cpu())
    mxnet_memonger.set_seed(1)
    outputs = runner.train(*batch(model, shape))
    found = {f"output {place}": output.asnumpy() for place, output in enumerate(outputs)}
    return found | {f"gradient {name}": array.asnumpy() for name, array in runner.gradients.items()}


@pytest.mark.parametrize("name", SMALL)
def test_efficient_gives_the_same_bits(name: str) -> None:
    shape, fields = SMALL[name]
    plain, efficient = LSTM(**fields), LSTM(**fields, efficient=True)
    efficient.set_arrays(canonical_weights(plain))
    assert_same_bits(step(efficient, shape), step(plain, shape))


@pytest.mark.parametrize(
    ("config", "steps", "share"),
    [("lstm_row_mnist", 56, 0.3), ("lstm_row_mnist_bidirectional", 28, 0.45), ("lstm_text", 32, 0.35)],
)
def test_efficient_holds_little(config: str, steps: int, share: float) -> None:
    reports = []
    for efficient in (False, True):
        model = build_model(VARIANTS[config], MemoryPolicy(efficient=efficient))
        shape = model.spec.sequence_shape(steps, batch_size=16)
        reports.append(measure_step(model, shape, repeats=0))
    assert (
        reports[1].parts["activations and their gradients"]
        < share * reports[0].parts["activations and their gradients"]
    )
    assert reports[1].saved_bytes < share * reports[0].saved_bytes


@pytest.mark.slow
def test_memory_grows_like_the_root_of_the_time_steps() -> None:
    """Time steps are gone back over one by one in all layers together; layer by layer, all of them would be held."""
    sizes = []
    for steps in (12, 48):
        model = LSTM(reads="tokens", input_size=32, hidden_size=32, num_layers=3, num_classes=5, efficient=True)
        report = measure_step(model, (32, steps), repeats=0)
        sizes.append(report.parts["activations and their gradients"])
    assert sizes[1] < 2.6 * sizes[0]


def test_dropout_draws_and_rests() -> None:
    shape, fields = SMALL["tokens, dropout"]
    model = LSTM(**fields)
    first, again = step(model, shape), step(model, shape)
    assert_same_bits(again, first)
    still = LSTM(**{**fields, "drop_rate": 0.0})
    still.set_arrays(canonical_weights(model))
    inputs, labels = batch(model, shape)
    assert not np.array_equal(step(still, shape)["output 0"], first["output 0"])
    evaluated = [StepRunner(one, mx.cpu()).evaluate(inputs, labels)[0].asnumpy() for one in (model, still)]
    assert np.array_equal(*evaluated)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_has_the_published_parameters(name: str) -> None:
    """Told by two time steps: nothing is allocated."""
    from mxnet_memonger.lstm import lstm_symbol

    config = VARIANTS[name]
    shape = config.sequence_shape(steps=2, batch_size=2)
    shapes, _, _ = lstm_symbol(config, shape).infer_shape(data=shape)
    assert sum(int(np.prod(size)) for size in shapes) - int(np.prod(shape)) == config.count_parameters()


@pytest.mark.skipif(why_missing(FRAMEWORKS["torch"]) is not None, reason="PyTorch is not installed")
@pytest.mark.parametrize("name", SMALL)
def test_weights_of_pytorch_give_the_same_outputs(name: str) -> None:
    torch = pytest.importorskip("torch")
    import pytorch_models

    shape, fields = SMALL[name]
    model = LSTM(**fields)
    twin = pytorch_models.LSTM(**vars(model.spec)).eval()
    set_canonical_weights(model, {key: value.detach().numpy() for key, value in twin.state_dict().items()})
    inputs, labels = batch(model, shape)
    given = torch.from_numpy(inputs).long() if model.spec.is_language_model else torch.from_numpy(inputs)
    expected = twin(given).detach().numpy()
    assert np.abs(model.predict(inputs).asnumpy() - expected).max() <= 1e-4 * np.abs(expected).max()
    loss, right = twin(given, torch.from_numpy(labels))
    found = model.loss_and_right(StepRunner(model, mx.cpu()).evaluate(inputs, labels), labels)
    assert found == (pytest.approx(float(loss), rel=1e-4), int(right))


def test_fresh_weights_are_as_pytorchs() -> None:
    arrays = canonical_weights(LSTM(hidden_size=64))
    bias = arrays["recurrent.bias_ih_l1"].reshape(4, 64)
    assert bias[1].tolist() == [0.5] * 64
    assert not bias[[0, 2, 3]].any()
    weight = arrays["recurrent.weight_hh_l0"]
    assert 0.115 < np.abs(weight).max() <= 0.125


def test_inputs_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"reads rows of 28 values got an input of shape \(2, 3, 28, 28\)"):
        LSTM().symbol_for((2, 3, 28, 28))
    with pytest.raises(ValueError, match=r"tokens needs an input of shape \(N, T\)"):
        LSTM(reads="tokens").symbol_for((2, 3, 4))
    with pytest.raises(ValueError, match="compressed"):
        LSTM(compressed=2)


def test_buckets_of_different_lengths_share_weights() -> None:
    model = LSTM(reads="tokens", input_size=4, hidden_size=8, num_classes=5, efficient=True)
    module = mx.mod.BucketingModule(model.bucketing(batch_size=2), default_bucket_key=9)
    module.bind([("data", (2, 9))], [("softmax_label", (2, 9))])
    module.init_params(mx.init.Uniform())
    module.init_optimizer(optimizer_params={"learning_rate": 0.1})
    draw = np.random.default_rng(0)
    for steps in (9, 5, 9):
        tokens = mx.nd.array(draw.integers(0, 5, (2, steps)))
        described = [("data", (2, steps))], [("softmax_label", (2, steps))]
        one = mx.io.DataBatch(
            [tokens], [tokens], bucket_key=steps, provide_data=described[0], provide_label=described[1]
        )
        before = module.get_params()[0]["recurrent.weight_hh_l1"].asnumpy()
        module.forward_backward(one)
        module.update()
        assert not np.array_equal(module.get_params()[0]["recurrent.weight_hh_l1"].asnumpy(), before)
        assert module.get_outputs()[0].shape == (2,)


def test_a_text_is_learnt(tmp_path: Path) -> None:
    data = TextData.of("abc", "abcab" * 200, window=16)
    mxnet_memonger.set_seed(0)
    model = LSTM(reads="tokens", input_size=8, hidden_size=16, num_classes=len(data.classes), efficient=True)
    options = TrainingOptions(
        n_epochs=12, batch_size=8, valid_size=8, lr=1.0, device="cpu", progress=False, save=str(tmp_path)
    )
    result = train(model, data, options)
    assert result.test_accuracy > 0.9
    row = result.metrics[-1]
    assert row["train_bits_per_character"] == pytest.approx(row["train_loss"] / np.log(2), rel=1e-4)
    loaded = zoo.load_run(tmp_path, "mxnet", "last") if (tmp_path / "config.json").exists() else model
    assert loaded.spec == model.spec


@pytest.mark.slow
def test_the_command_trains_an_lstm(tmp_path: Path) -> None:

    flags = ["--framework", "mxnet", "--model", "lstm", "--data", "synthetic", "--n_epochs", "1"]
    command = [sys.executable, "demo.py", *flags, "--efficient", "True", "--save", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "test    loss" in done.stdout
