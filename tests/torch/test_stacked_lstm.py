"""StackedLSTM is torch.nn.LSTM: weights, layouts, numbers; and its dropout is a function of seed, layer and step."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_densenet import assert_same
from torch import nn

from pytorch_models.saving import PlainPathWarning
from pytorch_models.saving.time_dropout import drop_steps
from pytorch_models.stacked_lstm import StackedLSTM


@pytest.mark.parametrize(("bidirectional", "batch_first", "bias"), list(itertools.product([False, True], repeat=3)))
def test_the_layers_are_torchs_own(bidirectional: bool, batch_first: bool, bias: bool) -> None:
    """Outputs, states and gradients of torch.nn.LSTM, with and without initial states, and state_dicts both ways."""
    shape = {"batch_first": batch_first, "bidirectional": bidirectional, "bias": bias}
    theirs = nn.LSTM(3, 5, 2, **shape).double()
    ours = StackedLSTM(3, 5, 2, **shape, efficient=True).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    for given in (False, True):
        results = []
        for lstm in (ours, theirs):
            torch.manual_seed(0)
            inputs = torch.randn((4, 37, 3) if batch_first else (37, 4, 3), dtype=torch.float64, requires_grad=True)
            states = tuple(torch.randn(4 if bidirectional else 2, 4, 5, dtype=torch.float64) for _ in "hc")
            states = tuple(state.requires_grad_() for state in states)
            outputs, (h, c) = lstm(inputs, states if given else None)
            ((outputs * torch.linspace(-1, 1, 5 * len(h) // 2).double()).sum() + (h * h).sum() + c.sum()).backward()
            found = {"outputs": outputs, "h": h, "c": c, "inputs": inputs.grad}
            found |= {"h0": states[0].grad, "c0": states[1].grad} if given else {}
            results.append({k: v.detach() for k, v in found.items()} | {n: p.grad for n, p in lstm.named_parameters()})
            lstm.zero_grad()
        assert_same(*results)


def test_unbatched_inputs_and_one_step() -> None:
    ours, theirs = StackedLSTM(3, 5, 2, efficient=True), nn.LSTM(3, 5, 2)
    theirs.load_state_dict(ours.state_dict())
    state = (torch.randn(2, 5), torch.randn(2, 5))
    for inputs, given in ((torch.randn(40, 3), None), (torch.randn(40, 3), state), (torch.randn(1, 7, 3), None)):
        with torch.no_grad():
            outputs, (h, c) = ours(inputs, given)
            expected, (h0, c0) = theirs(inputs, given)
        assert_same({"outputs": outputs, "h": h, "c": c}, {"outputs": expected, "h": h0, "c": c0}, 1e-6)


def test_finite_differences() -> None:
    lstm = StackedLSTM(2, 3, 2, efficient=True).double()
    inputs = torch.randn(9, 2, 2, dtype=torch.float64, requires_grad=True)
    state = tuple(torch.randn(2, 2, 3, dtype=torch.float64, requires_grad=True) for _ in "hc")
    torch.autograd.gradcheck(lambda x, h, c: lstm(x, (h, c))[0], (inputs, *state), nondet_tol=0)


def test_dropout_is_a_function_of_seed_layer_and_step() -> None:
    values, seed = torch.ones(64, 8, 32), torch.tensor([3])
    whole = drop_steps(values, 0.25, seed, 1, 0)
    parts = [drop_steps(values[start : start + 10], 0.25, seed, 1, start) for start in range(0, 64, 10)]
    assert torch.equal(torch.cat(parts), whole)
    assert whole.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert float((whole == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert not torch.equal(drop_steps(values, 0.25, seed, 0, 0), whole)
    assert not torch.equal(drop_steps(values, 0.25, torch.tensor([4]), 1, 0), whole)
    assert not torch.equal(whole[0], whole[1])


def test_packed_sequences_run_plainly_and_say_so() -> None:
    ours, theirs = StackedLSTM(3, 5, efficient=True), nn.LSTM(3, 5)
    theirs.load_state_dict(ours.state_dict())
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(9, 2, 3), [9, 4])
    with pytest.warns(PlainPathWarning, match="packed"):
        outputs, _ = ours(packed)
    assert torch.equal(outputs.data, theirs(packed)[0].data)
