"""efficient=True changes no number of an LSTM: outputs, gradients, dropout, the random stream."""

from __future__ import annotations

import contextlib
import copy
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_densenet import assert_same
from tiny_lstm import TINY, batch, pair, step
from torch import nn

from pytorch_models import LSTM
from pytorch_models.saving import PlainPathWarning, lstm_chunk, recurrence
from pytorch_models.stacked_lstm import StackedLSTM
from zoo.planner import RecurrentPlan, plan_recurrence

SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"num_layers": 1},
    {"num_layers": 3, "drop_rate": 0.4},
    {"bidirectional": True},
    {"bidirectional": True, "num_layers": 3, "drop_rate": 0.4},
    {"reads": "tokens"},
    {"reads": "tokens", "drop_rate": 0.4},
)


@pytest.fixture(params=["square root", "three repeats", "one chunk"])
def any_plan(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules that keep every state between chunks, schedules that do not, and no chunks at all."""
    if request.param == "square root":
        return

    def plan(steps: int, *_: Any, **__: Any) -> RecurrentPlan:
        if request.param == "one chunk":
            return RecurrentPlan(steps, steps, 1, 0, 1)
        found = plan_recurrence(steps, 10, 10, repeats=3)
        assert found.states < found.chunks - 1
        return found

    monkeypatch.setattr("pytorch_models.stacked_lstm.lstm_plan", plan)


@pytest.mark.quick
@pytest.mark.usefixtures("any_plan")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_step_equals_the_plain_models(shape: dict[str, Any]) -> None:
    plain, efficient = pair(**shape)
    found, expected = step(efficient, batch(plain)), step(plain, batch(plain))
    assert_same(found, expected)
    assert torch.equal(found["random"], expected["random"])


def test_float32_is_as_near_to_the_truth_as_plain() -> None:
    ratios = []
    for seed in range(7):
        truth, _ = pair(seed, hidden_size=32)
        expected, errors = step(truth, batch(truth, 200, seed)), []
        for model in pair(seed, torch.float32, hidden_size=32):
            found = step(model, tuple(t.float() for t in batch(truth, 200, seed)))
            names = [name for name in expected if name.startswith("gradient")]
            errors.append(sum(float((found[n].double() - expected[n]).norm() / expected[n].norm()) for n in names))
        ratios.append(errors[1] / errors[0])
    assert sorted(ratios)[3] <= 1.2, ratios


@pytest.mark.parametrize("kind", ["autocast", "bfloat16"])
def test_low_precision_is_as_near_to_the_truth_as_plain(kind: str) -> None:
    ratios = []
    for seed in range(5):
        truth, _ = pair(seed, hidden_size=32)
        inputs = batch(truth, 100, seed)
        expected, errors = step(truth, inputs), []
        for model in pair(seed, torch.float32 if kind == "autocast" else torch.bfloat16, hidden_size=32):
            model.load_state_dict(truth.state_dict())
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind == "autocast"):
                found = step(model, tuple(t.to(model.classifier.weight.dtype) for t in inputs))
            name = "gradient of recurrent.weight_hh_l0"
            assert found[name].dtype == model.classifier.weight.dtype
            errors.append(float((found[name].double() - expected[name]).norm()))
        ratios.append(errors[1] / errors[0])
    assert sorted(ratios)[2] <= 1.2, ratios


@pytest.mark.parametrize("shape", [{"drop_rate": 0.5}, {"drop_rate": 0.5, "bidirectional": True}], ids=str)
def test_eval_drops_nothing_and_draws_nothing(shape: dict[str, Any]) -> None:
    plain, efficient = (model.eval() for model in pair(**shape))
    inputs = batch(plain)
    state = torch.get_rng_state()
    assert torch.allclose(efficient(*inputs), plain(*inputs), rtol=0, atol=1e-14)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("trained", ["classifier", "weight_hh_l1", "bias_ih_l0", "recurrent"])
def test_frozen_parts(trained: str) -> None:
    plain, efficient = pair()
    for model in (plain, efficient):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained in name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = step(efficient, batch(plain))
    assert_same(found, step(plain, batch(plain)))
    assert any(name.startswith("gradient") for name in found)


@pytest.mark.parametrize("compressed", [None, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_an_empty_batch(bidirectional: bool, compressed: int | None) -> None:
    lstm = StackedLSTM(3, 5, 2, bidirectional=bidirectional, efficient=True, compressed=compressed)
    outputs, (hidden, _) = lstm(torch.empty(7, 0, 3))
    outputs.sum().backward()
    assert outputs.shape == (7, 0, 10 if bidirectional else 5)
    assert hidden.shape == (4 if bidirectional else 2, 0, 5)
    assert all(not parameter.grad.any() for parameter in lstm.parameters())


def test_two_forwards_then_two_backwards_and_retain_graph() -> None:
    results = []
    for model in pair(drop_rate=0.3):
        torch.manual_seed(2)
        first, second = model(*batch(model, seed=1)), model(*batch(model, seed=2))
        second.square().sum().backward(retain_graph=True)
        first.sum().backward()
        second.square().sum().backward()
        results.append({name: p.grad for name, p in model.named_parameters()})
    assert_same(results[1], results[0])


def test_double_backward_is_refused_with_a_way_out() -> None:
    _, model = pair()
    inputs = batch(model)[0].requires_grad_()
    with pytest.raises(RuntimeError, match="efficient=False"):
        torch.autograd.grad(model(inputs).sum(), inputs, create_graph=True)


def test_an_exception_in_a_chunk_leaves_the_next_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, efficient = pair(drop_rate=0.3)
    fused, calls = lstm_chunk.LSTMChunk.fused, []

    def failing(chunk: lstm_chunk.LSTMChunk, *args: Any) -> Any:
        calls.append(chunk)
        if len(calls) == 12:
            raise KeyError("in the middle of the backward pass")
        return fused(chunk, *args)

    with monkeypatch.context() as patch:
        patch.setattr(lstm_chunk.LSTMChunk, "fused", failing)
        with pytest.raises(KeyError):
            step(efficient, batch(plain))
        assert len(calls) == 12
    efficient.zero_grad()
    assert_same(step(efficient, batch(plain)), step(plain, batch(plain)))


def test_threads_do_not_disturb_one_another() -> None:
    plain, efficient = pair()
    expected, found = step(plain, batch(plain)), {}

    def work(name: int, model: LSTM) -> None:
        for _ in range(3):
            inputs = batch(model)[0].requires_grad_()
            outputs = model(inputs)
            weights = torch.linspace(-1, 1, outputs.numel(), dtype=outputs.dtype).view_as(outputs) + 0.5
            (outputs * weights).sum().backward()
            found[name] = inputs.grad

    threads = [threading.Thread(target=work, args=(n, copy.deepcopy(efficient))) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for gradient in found.values():
        assert_same({"inputs": gradient}, {"inputs": expected["inputs"]})
    assert len(found) == 3


def test_deepcopy_pickle_and_state_dicts() -> None:
    plain, efficient = pair()
    expected = plain(*batch(plain))
    for other in (copy.deepcopy(efficient), pickle.loads(pickle.dumps(efficient))):
        assert torch.allclose(other(*batch(plain)), expected)
        assert other.recurrent.efficient
    wrapped = {f"module._orig_mod.{name}": value for name, value in plain.state_dict().items()}
    efficient.load_state_dict(wrapped, strict=True)
    assert list(plain.state_dict()) == list(efficient.state_dict())


def test_images_are_read_by_rows_or_pixels() -> None:
    images = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    rows = LSTM("rows", input_size=15).as_sequence(images)
    pixels = LSTM("pixels", input_size=3).as_sequence(images)
    assert rows.shape == (2, 4, 15)
    assert torch.equal(rows[1, 2], images[1, :, 2, :].flatten())
    assert pixels.shape == (2, 20, 3)
    assert torch.equal(pixels[1, 7], images[1, :, 1, 2])


def test_a_language_models_loss_is_that_of_its_scores() -> None:
    for model in pair(reads="tokens"):
        tokens, targets = batch(model)
        scores = model(tokens)
        loss, right = model(tokens, targets)
        expected = nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum")
        assert torch.allclose(loss, expected)
        assert right == (scores.argmax(2) == targets).sum()


def test_a_hook_in_a_language_model_fires_and_is_said_so() -> None:
    plain, efficient = pair(reads="tokens")
    seen: list[torch.Size] = []
    efficient.classifier.register_forward_hook(lambda _m, _i, output: seen.append(output.shape))
    with pytest.warns(PlainPathWarning, match="hook is registered on classifier"):
        found = step(efficient, batch(plain))
    assert len(seen) == 1
    assert_same(found, step(plain, batch(plain)))


@pytest.mark.parametrize("efficient", [False, True])
def test_export_and_compile_see_a_plain_model(efficient: bool) -> None:
    model = LSTM(**TINY, efficient=efficient).eval()
    inputs = batch(model)
    program = torch.export.export(model, inputs)
    assert torch.allclose(program.module()(*inputs), model(*inputs), atol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LSTM(**TINY)(torch.zeros(2, 7)), "sequence"),
        (lambda: LSTM(**TINY)(torch.zeros(2, 9, 4)), "reads rows of 3 values"),
        (lambda: LSTM("tokens", **TINY)(torch.zeros(2, 9)), "integer dtype"),
        (lambda: LSTM("tokens", **TINY)(torch.zeros(2, 9).long(), torch.zeros(2, 8).long()), "targets must have"),
        (lambda: LSTM(**TINY, opt_memory=3), "DenseNet's"),
        (lambda: StackedLSTM(3, 5, efficient=True)(torch.zeros(0, 2, 3)), "no time steps"),
        (lambda: StackedLSTM(3, 5, efficient=True)(torch.zeros(4, 2, 3, 1)), "2 or 3 dimensions"),
        (lambda: StackedLSTM(3, 5, efficient=True)(torch.zeros(4, 2, 2)), "must be equal to input_size"),
        (lambda: StackedLSTM(3, 5, efficient=True)(torch.zeros(4, 2, 3), (torch.zeros(1, 3, 5),) * 2), "initial h"),
    ],
)
def test_wrong_inputs_are_refused(call: Callable[[], object], words: str) -> None:
    with pytest.raises((ValueError, RuntimeError), match=words):
        call()


def test_the_comparison_would_notice_a_wrong_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, efficient = pair()
    monkeypatch.setattr(recurrence._SecondSweep, "_add", lambda *_: None)
    with pytest.raises(AssertionError), contextlib.suppress(KeyError):
        assert_same(step(efficient, batch(plain)), step(plain, batch(plain)))
