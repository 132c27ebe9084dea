"""GACT: stored bytes fall, outputs stay, gradients are unbiased, exact things are exact, and nothing is left behind."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from compress.small_nets import assert_unbiased, gradient, images, loss_of, residual, saved_bytes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from pytorch_models.compressed import Controller, gact


def bytes_under(model: nn.Module, inputs: Tensor, bits: int | None) -> int:
    if bits is None:
        return saved_bytes(model, lambda: model(inputs), inputs)
    with gact(model, bits):
        return saved_bytes(model, lambda: model(inputs), inputs)


@pytest.mark.quick
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_stored_bytes_are_the_bits_and_little_more(bits: int) -> None:
    model = nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(4)])
    inputs = torch.randn(4, 8, 32, 32)
    values = 3 * inputs.numel()  # what the convolutions after the first read
    found = bytes_under(model, inputs, bits)
    assert bytes_under(model, inputs, None) == 4 * values
    assert values * (bits + 32 / 256) / 8 <= found <= 1.1 * values * (bits + 32 / 256) / 8


def test_a_residual_network_keeps_an_eighth_at_2_bits() -> None:
    model, inputs = residual(), images()
    assert bytes_under(model, inputs, 2) < bytes_under(model, inputs, None) / 8


@pytest.mark.quick
def test_outputs_stay_to_the_bit() -> None:
    model, inputs = residual(drop=0.5), images()
    torch.manual_seed(3)
    plain = model(inputs)
    with gact(model, 1):
        torch.manual_seed(3)
        assert torch.equal(model(inputs), plain)


@pytest.mark.parametrize("bits", [2, 4])
def test_gradients_are_unbiased(bits: int) -> None:
    model, inputs = residual(drop=0.3).eval(), images()  # BatchNorm's own bias is documented: frozen statistics here
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.train()
    exact = gradient(model, inputs, seed=7)
    with gact(model, bits) as controller:
        samples = torch.stack([_fresh_noise(model, inputs, controller, run) for run in range(60)])
    assert samples.std(0).max() > 0
    assert_unbiased(samples, exact)


def _fresh_noise(model: nn.Module, inputs: Tensor, controller: Controller, run: int) -> Tensor:
    controller._seeds._calls = 1000 * run  # the dropout's seed stays, the rounding's does not
    controller._seeds._seeded = 7
    return gradient(model, inputs, seed=7)


@pytest.mark.parametrize(
    "layer", [nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(), nn.Dropout(), nn.MaxPool2d(3, 2, 1)], ids=repr
)
def test_masks_and_positions_are_exact(layer: nn.Module) -> None:
    class OnTop(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return layer(inputs) + 1

    model = OnTop()
    values = torch.randn(4, 8, 16, 16) * 4

    def input_gradient() -> Tensor:
        torch.manual_seed(0)
        leaf = values.clone().requires_grad_()
        (model(leaf * 1.5) * torch.linspace(1, 2, 16)[: model(leaf).shape[-1]]).sum().backward()
        assert leaf.grad is not None
        return leaf.grad

    plain = input_gradient()
    inner = (values * 1.5).requires_grad_()
    ordinary = saved_bytes(model, lambda: model(inner * 1.0), inner)
    with gact(model, 1):
        assert torch.equal(input_gradient(), plain)
        assert saved_bytes(model, lambda: model(inner * 1.0), inner) < ordinary / 3


def test_what_decides_divides_or_has_a_pole_is_kept_exactly() -> None:
    """`values` in (-1, 1), `positive` in (0, 1): rounding would step over a bound, a sign or a pole."""
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "acos": lambda values, positive: values.acos(),
        "log": lambda values, positive: positive.log(),
        "sqrt": lambda values, positive: positive.sqrt(),
        "power": lambda values, positive: positive**1.5,
        "quotient": lambda values, positive: 1 / positive,
        "entropy": lambda values, positive: F.binary_cross_entropy(positive, torch.full_like(positive, 0.3)),
        "threshold": lambda values, positive: F.threshold(values, 0.1, 0.0),
        "leaky in place": lambda values, positive: F.leaky_relu(values, 0.2, inplace=True),
        "larger": lambda values, positive: torch.fmax(values, positive),
        "sign": lambda values, positive: torch.copysign(positive, values),
    }
    base = torch.linspace(-0.9999, 0.9999, 2048).view(8, 256)
    for name, function in functions.items():
        model = Applied(function)
        plain = leaf_gradient(model, base)
        with gact(model, 1):
            assert torch.equal(leaf_gradient(model, base), plain), name


def test_masked_scores_do_not_drown_the_others() -> None:
    base = torch.linspace(-3, 3, 2048).view(8, 256)
    for mask in (-1e9, float("-inf")):
        scores = lambda values, _, mask=mask: values.masked_fill(torch.arange(256) % 3 == 0, mask)  # noqa: E731
        model = Applied(lambda *given, scores=scores: F.cross_entropy(scores(*given) * 2, torch.ones(8).long()))
        plain = leaf_gradient(model, base)
        with gact(model, 1):
            found = leaf_gradient(model, base)
        assert float((found - plain).norm()) < 0.02 * float(plain.norm())


class Applied(nn.Module):
    """A function of values and of their positive twins."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, leaf: Tensor) -> Tensor:
        values = leaf * 1.0
        return self.function(values, (values.detach() + leaf) * 0.25 + 0.5)


def leaf_gradient(model: nn.Module, base: Tensor) -> Tensor:
    leaf = base.clone().requires_grad_()
    model(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.quick
def test_a_tensor_saved_by_many_is_packed_once() -> None:
    class Fan(nn.Module):
        def __init__(self, views: bool) -> None:
            super().__init__()
            self.views, self.layers = views, nn.ModuleList(nn.Linear(32, 32) for _ in range(5))

        def forward(self, values: Tensor) -> Tensor:
            values = values * 2
            return sum(layer(values.view(-1, 32) if self.views else values).sum() for layer in self.layers)

    values = torch.randn(16, 8, 32, requires_grad=True)
    once = 16 * 8 * 32 * (4 + 32 / 256) / 8
    for views in (False, True):
        assert bytes_under(Fan(views), values, 4) <= once + 256


def test_a_changed_tensor_is_packed_anew() -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = (nn.Parameter(torch.ones(2, 300)) for _ in range(2))

        def forward(self, values: Tensor) -> Tensor:
            values = values * 1
            first = (self.before * values).sum()
            return first + (self.after * values.add_(10)).sum()

    model = Changing()
    with gact(model, 8):
        model(torch.full((2, 300), 3.0, requires_grad=True)).backward()
    assert torch.equal(model.before.grad, torch.full((2, 300), 3.0))
    assert torch.equal(model.after.grad, torch.full((2, 300), 13.0))


def test_checkpointed_layers_pack_a_feature_once() -> None:
    class Dense(nn.Module):
        def __init__(self, layers: int) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(64 * (index + 1), 64) for index in range(layers))

        def forward(self, values: Tensor) -> Tensor:
            features = [values * 1]
            for layer in self.layers:
                run = lambda *parts, layer=layer: layer(torch.cat(parts, 1))  # noqa: E731
                features.append(checkpoint(run, *features, use_reentrant=False))
            return features[-1]

    values = torch.randn(64, 64, requires_grad=True)
    one = 64 * 64 * (4 + 32 / 256) / 8
    found = bytes_under(Dense(8), values, 4)
    assert found < 1.3 * 8 * one  # 36 if every segment packed its inputs again


def test_an_exception_leaves_nothing_behind() -> None:
    class Failing(nn.Module):
        def forward(self, values: Tensor) -> Tensor:
            raise KeyboardInterrupt

    model = Failing()
    with pytest.raises(KeyboardInterrupt), gact(model):
        model(torch.ones(1))
    assert "forward" not in vars(model)
    seen = torch.randn(4, 300, requires_grad=True) * 1
    assert torch.equal((seen * seen).grad_fn._saved_self, seen)


def test_contexts_undo_their_own_alone_and_models_differ() -> None:
    first, second, inputs = residual(), residual(), images()
    plain = bytes_under(first, inputs, None)
    with gact(first, 2):
        with gact(second, 8):
            low = saved_bytes(first, lambda: first(inputs), inputs)
            high = saved_bytes(second, lambda: second(inputs), inputs)
        assert saved_bytes(second, lambda: second(inputs), inputs) == plain
        assert saved_bytes(first, lambda: first(inputs), inputs) == low
    assert saved_bytes(first, lambda: first(inputs), inputs) == plain
    assert low < high < plain


def test_two_threads_do_not_disturb_one_another() -> None:
    inputs, found = images(), {}

    def work(bits: int) -> None:
        model = residual()
        with gact(model, bits):
            for _ in range(3):
                loss_of(model, inputs).backward()
            found[bits] = bytes_under_tracker(model, inputs)

    def bytes_under_tracker(model: nn.Module, batch: Tensor) -> int:
        return saved_bytes(model, lambda: model(batch), batch)

    threads = [threading.Thread(target=work, args=(bits,)) for bits in (2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[2] < found[8]


def test_installing_twice_is_refused() -> None:
    model = residual()
    with gact(model) as controller:
        with pytest.raises(RuntimeError, match="installed already"):
            controller.install()
        with pytest.raises(RuntimeError, match="another Controller"):
            Controller(model).install()
    controller.uninstall()
    assert not controller.is_installed


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((nn.ReLU(), 3), ValueError, "did you mean 2"),
        ((nn.ReLU(), "4"), TypeError, "1, 2, 4 or 8"),
        ((4,), TypeError, "by name"),
    ],
)
def test_bad_arguments_are_named(arguments: tuple[object, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        Controller(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no model"):
        Controller(default_bit=4).install()


def test_by_hand_as_adapters_do() -> None:
    model, inputs = residual(), images()
    exact = gradient(model, inputs)
    controller = Controller(default_bit=8)
    controller.filter_tensors(model.named_parameters())
    with torch.autograd.graph.saved_tensors_hooks(controller.quantize, controller.dequantize):
        found = gradient(model, inputs)
    controller.iterate()
    assert not torch.equal(found, exact)
    assert F.cosine_similarity(found, exact, 0) > 0.9
