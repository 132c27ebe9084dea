"""compressed= of an LSTM: outputs to the bit, gradients unbiased or exact where nothing is rounded, bytes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_densenet_noise import squares_and_noise
from tiny_densenet import assert_same
from tiny_lstm import TINY, batch, step
from torch import Tensor, nn

from pytorch_models import LSTM
from pytorch_models.saving import PlainPathWarning
from pytorch_models.saving.sequence_codes import SequenceCodec
from pytorch_models.stacked_lstm import StackedLSTM

SHAPES: tuple[dict[str, Any], ...] = (
    {},
    {"num_layers": 1},
    {"num_layers": 3, "drop_rate": 0.4},
    {"bidirectional": True},
    {"bidirectional": True, "num_layers": 3, "drop_rate": 0.4},
    {"reads": "tokens"},
    {"reads": "tokens", "drop_rate": 0.4},
)
EFFICIENT = {"efficient": True}
LONG = 270  # more than one chunk


def models(dtype: torch.dtype, compressed: int | str = 2, seed: int = 0, **flags: Any) -> tuple[LSTM, LSTM, LSTM]:
    """Plain, with the flags but not compressed, and compressed: the same weights."""
    exact = {name: value for name, value in flags.items() if name != "efficient"}
    torch.manual_seed(seed)
    plain = LSTM(**{**TINY, **exact}).to(dtype)
    others = [LSTM(**{**TINY, **flags}, compressed=codec).to(dtype) for codec in (None, compressed)]
    for other in others:
        other.load_state_dict(plain.state_dict())
    return plain, others[0], others[1]


@pytest.fixture
def lossless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A codec that keeps values as they are: what is then not exact is not the rounding."""

    def decode(_: SequenceCodec, parts: tuple[Tensor, ...], shape: torch.Size, dtype: torch.dtype) -> Tensor:
        assert parts[0].shape == shape
        return parts[0].clone()

    monkeypatch.setattr("pytorch_models.saving.lstm_storage.SHORT_CHUNK", 16)  # two chunks of 37 steps
    monkeypatch.setattr(SequenceCodec, "encode", lambda _, values, seed: (values.clone(),))
    monkeypatch.setattr(SequenceCodec, "decode", decode)


@pytest.fixture(params=["cheapest", "coded"])
def any_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What costs least, and codes whatever they cost, in every second layer of a bidirectional one."""
    if request.param == "coded":
        monkeypatch.setattr("pytorch_models.stacked_lstm.codes_are_smaller", lambda _: True)
        monkeypatch.setattr(
            "pytorch_models.stacked_lstm.coded_layers_of",
            lambda _, layers: tuple(layers == 2 or bool(layer % 2) for layer in range(layers)),
        )
    return


@pytest.mark.quick
@pytest.mark.usefixtures("any_way")
@pytest.mark.parametrize("flags", [{}, EFFICIENT], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "steps"), [(torch.float32, LONG), (torch.float64, 37)], ids=str)
def test_outputs_and_the_random_stream_do_not_change_by_a_bit(
    dtype: torch.dtype, steps: int, shape: dict[str, Any], flags: dict[str, Any]
) -> None:
    _, exact, coded = models(dtype, **shape, **flags)
    inputs = batch(exact, steps)
    expected, found = step(exact, inputs), step(coded, inputs)
    for name in ("outputs", "random"):
        assert torch.equal(found[name], expected[name]), name
    assert found.keys() == expected.keys()
    assert all(torch.isfinite(value).all() for value in found.values())


@pytest.mark.usefixtures("any_way", "lossless")
@pytest.mark.parametrize("flags", [{}, EFFICIENT], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("steps", [1, 37])
def test_gradients_are_exact_where_nothing_is_rounded(steps: int, shape: dict[str, Any], flags: dict[str, Any]) -> None:
    plain, _, coded = models(torch.float64, **shape, **flags)
    assert_same(step(coded, batch(plain, steps)), step(plain, batch(plain, steps)))


@pytest.mark.usefixtures("lossless")
@pytest.mark.parametrize("shape", [{}, {"bidirectional": True, "num_layers": 3}], ids=str)
@pytest.mark.parametrize("trained", ["classifier", "weight_hh_l1", "bias_ih_l0"])
def test_frozen_parts(trained: str, shape: dict[str, Any]) -> None:
    plain, _, coded = models(torch.float64, **shape)
    for needs_input in (False, True):
        found = []
        for model in (coded, plain):
            for name, parameter in model.named_parameters():
                parameter.requires_grad_(trained in name)
            model.zero_grad()
            inputs = batch(plain)[0].requires_grad_(needs_input)
            model(inputs).square().sum().backward()
            grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            found.append(grads | ({"inputs": inputs.grad} if needs_input else {}))
        assert_same(*found)


@pytest.mark.usefixtures("lossless")
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_states_in_and_out(bidirectional: bool, bias: bool) -> None:
    """Of a StackedLSTM, twice in one step, the second call from the first one's states."""
    theirs = nn.LSTM(3, 5, 2, bias=bias, bidirectional=bidirectional).double()
    ours = StackedLSTM(3, 5, 2, bias=bias, bidirectional=bidirectional, compressed=4).double()
    ours.load_state_dict(theirs.state_dict())
    results = []
    for lstm in (ours, theirs):
        torch.manual_seed(0)
        inputs = torch.randn(41, 4, 3, dtype=torch.float64, requires_grad=True)
        shape = (4 if bidirectional else 2, 4, 5)
        first = tuple(torch.randn(shape, dtype=torch.float64, requires_grad=True) for _ in "hc")
        outputs, state = lstm(inputs, first)
        again, (h, c) = lstm(inputs[:7] * 2, state)
        (outputs.sum() + again.square().sum() + (h * c).sum()).backward()
        found = {"inputs": inputs.grad, "h0": first[0].grad, "c0": first[1].grad, "outputs": again.detach()}
        results.append(found | {name: p.grad for name, p in lstm.named_parameters()})
    assert_same(*results)


def gradients_over_seeds(model: LSTM, inputs: tuple[Tensor, ...], seeds: int) -> Tensor:
    """All parameters' gradients of one loss, a row a seed."""
    rows = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model.zero_grad()
        scores = model(*inputs)
        loss = scores[0] if isinstance(scores, tuple) else scores
        (loss * torch.linspace(-1, 1, loss.numel()).view_as(loss).add(0.5)).sum().backward()
        rows.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    return torch.stack(rows)


@pytest.mark.parametrize("compressed", [1, 2, "fixed:4"])
@pytest.mark.parametrize(
    ("shape", "steps"), [({}, 400), ({"bidirectional": True}, 100), ({"reads": "tokens"}, 100)], ids=str
)
def test_gradients_are_unbiased(shape: dict[str, Any], steps: int, compressed: int | str) -> None:
    plain, _, coded = models(torch.float32, compressed, **shape, hidden_size=16)
    inputs = batch(plain, steps)
    expected = gradients_over_seeds(plain, inputs, 1)[0]
    squares, noise = squares_and_noise(gradients_over_seeds(coded, inputs, 16), expected)
    # The noise of a recurrence has few directions: 24 seeds gave 0.5 to 2.4, 96 seeds 0.5 to 1.4 in every case.
    assert squares < 2.2
    assert noise > 1e-3, "something was rounded"


def test_the_test_of_bias_notices_factors_that_share_their_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = SequenceCodec.encode
    monkeypatch.setattr(SequenceCodec, "encode", lambda codec, values, _: encode(codec, values.square().sqrt(), 1))
    plain, _, coded = models(torch.float32, 2, hidden_size=16)
    inputs = batch(plain, 40)
    expected = gradients_over_seeds(plain, inputs, 1)[0]
    sample = gradients_over_seeds(coded, inputs, 4) + 1e-6 * torch.randn(4, len(expected))
    assert squares_and_noise(sample, expected)[0] > 3


def test_noise_does_not_grow_with_the_steps_that_a_cell_remembers() -> None:
    """Forget gates multiply one another: with few bits for them the gradient would drown."""
    noise = []
    for steps in (30, 600):
        plain, _, coded = models(torch.float32, 2, num_layers=1, hidden_size=16)
        for model in (plain, coded):
            with torch.no_grad():
                model.recurrent.bias_ih_l0[16:32] = 5.0
                model.recurrent.weight_ih_l0[:8] *= 0.1
                model.recurrent.weight_ih_l0[16:20] *= 8.0
        inputs = batch(plain, steps)
        expected = gradients_over_seeds(plain, inputs, 1)[0]
        noise.append(squares_and_noise(gradients_over_seeds(coded, inputs, 6), expected)[1])
    assert noise[1] < 4 * noise[0], noise


def test_noise_is_new_at_every_step_and_follows_from_the_seed() -> None:
    _, _, coded = models(torch.float32)
    inputs = batch(coded)
    again = copy.deepcopy(coded), pickle.loads(pickle.dumps(coded))
    first, second = gradients_over_seeds(coded, inputs, 2)
    assert not torch.equal(first, second)
    for other in again:
        assert torch.equal(gradients_over_seeds(other, inputs, 2)[1], second)


@pytest.mark.parametrize("shape", SHAPES[:1] + SHAPES[3:4], ids=str)
@pytest.mark.parametrize("compressed", ["half", "bfloat16", 8])
def test_many_bits_are_near_the_truth(compressed: int | str, shape: dict[str, Any]) -> None:
    plain, _, coded = models(torch.float32, compressed, **shape)
    found, expected = step(coded, batch(plain)), step(plain, batch(plain))
    assert_same(found, expected, tolerance=0.1)


def test_two_backward_passes_of_one_step_agree_and_a_second_derivative_is_refused() -> None:
    _, _, coded = models(torch.float32, drop_rate=0.3)
    loss, parameters = coded(*batch(coded)).square().sum(), list(coded.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    second = torch.autograd.grad(loss, parameters, retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        torch.autograd.grad(loss, parameters, create_graph=True)


def test_a_layer_alone_takes_no_scheme() -> None:
    with pytest.raises(ValueError, match=r"'L3' is a scheme for whole models: give 1, 2, 4, 8"):
        StackedLSTM(3, 5, compressed="L3")


@pytest.mark.parametrize("mode", ["eval", "no_grad", "nothing trains"])
@pytest.mark.parametrize("shape", [SHAPES[2], SHAPES[4]], ids=str)
def test_other_modes(mode: str, shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, exact, coded = models(torch.float32, **shape)
    if mode != "eval":
        monkeypatch.setattr(SequenceCodec, "encode", lambda *_: pytest.fail("nothing is to be packed"))
    outputs = []
    for model in (exact, coded):
        model.train(mode != "eval").requires_grad_(mode != "nothing trains")
        torch.manual_seed(0)
        with torch.set_grad_enabled(mode != "no_grad"):
            outputs.append(model(*batch(model)))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("kind", ["autocast", "bfloat16"])
@pytest.mark.parametrize("shape", [{}, {"bidirectional": True}], ids=str)
def test_low_precision(kind: str, shape: dict[str, Any]) -> None:
    truth, _, _ = models(torch.float64, **shape, hidden_size=16)
    _, exact, coded = models(torch.float32 if kind == "autocast" else torch.bfloat16, 8, **shape, hidden_size=16)
    found = []
    for model in (exact, coded):
        model.load_state_dict(truth.state_dict())
        with torch.autocast("cpu", torch.bfloat16, enabled=kind == "autocast"):
            outputs = model(*batch(model, LONG))
        outputs.float().square().sum().backward()
        assert all(p.grad.dtype == p.dtype for p in model.parameters())
        found.append((outputs, model.recurrent.weight_hh_l1.grad.double()))
    assert torch.equal(found[0][0], found[1][0])
    assert float((found[0][1] - found[1][1]).norm() / found[0][1].norm()) < 0.1


@pytest.mark.parametrize("shape", [(3, 1, 3), (0, 7, 3), (1, 131, 3)], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_odd_shapes(shape: tuple[int, ...], bidirectional: bool) -> None:
    _, exact, coded = models(torch.float32, 8, bidirectional=bidirectional)
    found = []
    for model in (exact, coded):
        inputs = torch.linspace(-1, 1, 3 * shape[0] * shape[1]).view(shape).requires_grad_()
        outputs = model(inputs)
        outputs.sum().backward()
        found.append({"outputs": outputs.detach(), "inputs": inputs.grad})
    assert torch.equal(found[0]["outputs"], found[1]["outputs"])
    assert found[1]["inputs"].shape == shape
    if shape[0]:
        assert_same(found[1], found[0], tolerance=0.1)


def test_packed_sequences_run_plainly_and_say_so() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(9, 2, 3), [9, 4])
    with pytest.warns(PlainPathWarning, match="packed"):
        StackedLSTM(3, 5, compressed=2)(packed)


WIDE = {"input_size": 28, "hidden_size": 512, "num_layers": 2}
