"""ActNN's layers and conversion: outputs stay, gradients are unbiased, bytes fall, and a model stays what it was."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from compress.small_nets import assert_unbiased, gradient, images, loss_of, residual, saved_bytes
from torch import Tensor, nn

import pytorch_models
import zoo
from pytorch_models import compressed
from pytorch_models.compressed import IndexedLoader, QModule, compress

LAYERS = [
    (nn.Conv1d(4, 6, 3, padding="same"), (4, 4, 40)),
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 4, 12, 12)),
    (nn.Conv2d(4, 6, 2, padding="same", padding_mode="circular"), (4, 4, 12, 12)),
    (nn.Conv3d(4, 6, 3, dilation=2, padding=2), (2, 4, 6, 6, 6)),
    (nn.ConvTranspose1d(4, 6, 3, 2), (4, 4, 20)),
    (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), (4, 4, 8, 8)),
    (nn.ConvTranspose3d(4, 6, 3, 2), (2, 4, 4, 4, 4)),
    (nn.BatchNorm1d(8), (64, 8)),
    (nn.BatchNorm1d(8), (16, 8, 10)),
    (nn.BatchNorm2d(8, momentum=None), (16, 8, 6, 6)),
    (nn.BatchNorm3d(4), (8, 4, 4, 4, 4)),
    (nn.Linear(16, 8), (4, 10, 16)),
    (nn.ReLU(), (4, 4, 8, 8)),
    (nn.ReLU(inplace=True), (4, 40)),
    (nn.Dropout(0.3), (4, 4, 8, 8)),
    (nn.MaxPool2d(3, 2, 1), (4, 4, 9, 9)),
    (nn.AvgPool2d(2), (4, 4, 8, 8)),
    (nn.GELU(), (4, 300)),
    (nn.SiLU(), (4, 300)),
]


def outputs_and_gradients(layer: nn.Module, inputs: Tensor) -> list[Tensor]:
    leaf = inputs.clone().requires_grad_()
    torch.manual_seed(0)
    outputs = layer(leaf * 1)
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    layer.zero_grad()
    (outputs * weights).sum().backward()
    assert leaf.grad is not None
    return [outputs.detach(), *layer.buffers(), leaf.grad, *(p.grad for p in layer.parameters() if p.grad is not None)]


@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda value: str(value)[:40])
def test_every_layer_is_its_namesake(layer: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    inputs = torch.randn(shape)
    twin = compress(copy.deepcopy(layer), 8)
    assert type(twin).__name__ == "Q" + type(layer).__name__
    assert str(twin) == "Q" + str(layer)
    plain, found = outputs_and_gradients(layer, inputs), outputs_and_gradients(twin, inputs)
    exact = 1 + len(list(layer.buffers()))
    for index, (a, b) in enumerate(zip(plain, found, strict=True)):
        assert a.dtype == b.dtype
        if index < exact:
            assert torch.equal(a, b)
        else:
            assert (a - b).abs().max() <= 0.05 * a.abs().max() + 1e-6, index
    with torch.no_grad():
        torch.manual_seed(0)
        before = twin(inputs.clone())
        torch.manual_seed(0)
        assert torch.equal(layer(inputs.clone()), before)


def test_layers_are_built_by_hand_as_torchs() -> None:
    model = nn.Sequential(
        compressed.QConv2d(3, 8, 3, padding=1), compressed.QBatchNorm2d(8), compressed.QReLU(), nn.Flatten(),
        compressed.QLinear(8 * 256, 10),
    )  # fmt: skip
    inputs = images()
    assert saved_bytes(model, lambda: model(inputs), inputs) < 8 * 8 * 256 * 4 * 3 / 6
    loss_of(model, inputs).backward()
    assert "QConv2d(3, 8" in str(model)
    assert set(model.state_dict()) == {
        "0.weight",
        "0.bias",
        *(f"1.{n}" for n in nn.BatchNorm2d(1).state_dict()),
        "4.weight",
        "4.bias",
    }


@pytest.mark.quick
def test_conversion_keeps_everything_else() -> None:
    model = residual().double()
    model.conv2.weight.requires_grad_(False)
    model.norm1.eval()
    shared, seen = nn.ReLU(), []
    model.relu = model.also = shared
    model.conv1.register_forward_hook(lambda *_: seen.append(1))
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    assert QModule(model, "L2") is model
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == before
    assert type(model.relu).__name__ == "QReLU"
    assert model.relu is model.also
    assert not model.norm1.training
    assert not model.conv2.weight.requires_grad
    loss_of(model, images().double()).backward()
    assert seen == [1]
    assert model.compression.unconverted == ()


@pytest.mark.filterwarnings("ignore:compress. 'swap'")
@pytest.mark.parametrize(
    "scheme", ["L1", "L3", "L3.1", "L4", "swap", "gact:2", "quant8", "quantz4", "autoquant", "autoquant-sr"]
)
def test_outputs_stay_to_the_bit(scheme: str) -> None:
    model, plain = compress(residual(), scheme), residual()
    for step in range(2):
        inputs = images(seed=step)
        assert torch.equal(model(inputs), plain(inputs))
        loss_of(model, inputs).backward()
        model.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("scheme", ["2", "L3", "quantz4"])
def test_gradients_are_unbiased(scheme: str) -> None:
    model, inputs = residual().eval(), images()
    exact = gradient(model, inputs)
    compress(model, scheme)
    samples = torch.stack([gradient(model, inputs) for _ in range(80)])
    if scheme == "quantz4":  # rounded to nearest, as published: not unbiased, but always the same
        assert torch.equal(samples[0], samples[-1])
        assert torch.nn.functional.cosine_similarity(samples[0], exact, 0) > 0.99
    else:
        assert samples.std(0).max() > 0
        assert_unbiased(samples, exact)


def test_bytes_follow_the_level() -> None:
    inputs = images()
    found = {}
    for scheme in ("L0", "L1", "L2", "L3", "1", "8", "quant6", "quantz6"):
        model = compress(residual(), scheme)
        found[scheme] = saved_bytes(model, lambda model=model: model(inputs), inputs)
    assert found["L0"] > found["L1"] > found["L2"] > found["L3"] > found["1"]
    assert found["L0"] > found["8"] > found["L2"]
    assert found["L3"] < found["L0"] / 11
    assert found["quantz6"] < found["quant6"] < found["L0"] / 3


def test_a_blocks_input_is_packed_once() -> None:
    class Block(nn.Module):
        def __init__(self, twice: bool) -> None:
            super().__init__()
            self.first, self.second, self.twice = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1), twice

        def forward(self, values: Tensor) -> Tensor:
            values = values * 2
            return self.first(values) + (self.second(values) if self.twice else 0)

    values = torch.randn(4, 16, 16, 16, requires_grad=True)
    one, two = (
        saved_bytes(model, lambda model=model: model(values), values)
        for model in (compress(Block(False), 2), compress(Block(True), 2))
    )
    assert two < one + 1024


def test_models_and_copies_do_not_disturb_one_another() -> None:
    inputs = images()
    low, high = compress(residual(), "L3"), compress(residual(), 8)
    alone = saved_bytes(low, lambda: low(inputs), inputs)
    high(inputs)
    for other in (copy.deepcopy(low), pickle.loads(pickle.dumps(low))):
        assert other.compression is not low.compression
        assert other.conv1.compression is other.compression
        assert abs(saved_bytes(other, lambda other=other: other(inputs), inputs) - alone) < 0.1 * alone
    assert saved_bytes(high, lambda: high(inputs), inputs) > 2 * alone


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        ("L7", "did you mean L"),
        ("gact:3", "gact:"),
        ("quant17", "did you mean quant16"),
        (3, "did you mean 2"),
        ("x", "Known: 1, 2"),
    ],
)
def test_unknown_schemes_are_named(scheme: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compress(residual(), scheme)  # type: ignore[arg-type]


def test_a_scheme_and_bits_contradict_one_another() -> None:
    with pytest.raises(ValueError, match=r"scheme 'L3' and bits=4 both .* give the scheme alone, or bits=4 alone"):
        compress(nn.Linear(2, 2), "L3", bits=4)
    assert str(compress(nn.Linear(2, 2), bits=4).compression.scheme) == "4"
    assert str(compress(nn.Linear(2, 2)).compression.scheme) == "L3"


def test_converting_twice_is_refused() -> None:
    model = nn.Sequential(compress(residual(), "L3"))
    with pytest.raises(ValueError, match="its part '0' is compressed already"):
        compress(model)
    with pytest.raises(TypeError, match="Module"):
        compress("resnet50")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"num_samples must be .* or 0 for none, not -3"):
        compress(residual(), num_samples=-3)


def test_second_derivatives_are_refused() -> None:
    model = compress(nn.Sequential(nn.Linear(32, 32)), 4)
    leaf = torch.randn(16, 32, requires_grad=True)
    with pytest.raises(RuntimeError, match="twice"):
        torch.autograd.grad(model(leaf).square().sum(), leaf, create_graph=True)


def test_autocast_and_nan() -> None:
    model, inputs = compress(residual(), "L3"), images()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, inputs)
    loss.backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in model.parameters())
    model.zero_grad()
    inputs[0, 0, 0, 0] = float("nan")
    loss_of(model, inputs).backward()
    assert model.stem.weight.grad.isnan().any()
    loss_of(model, images()).backward()


def test_bits_differ_by_sample_and_layer_and_keep_their_average() -> None:
    model, inputs = compress(residual(), "L3"), images(32)
    inputs[:16] *= 8
    uniform = compress(residual(), 2)
    for _ in range(12):
        loss_of(model, inputs).backward()
    rows = {row["layer"]: row["bits"] for row in model.compression.report()}
    assert len(set(rows.values())) > 1
    assert model.compression.average_bits <= 2.001
    noise = [torch.stack([gradient(one.eval(), inputs) for _ in range(12)]).var(0).sum() for one in (model, uniform)]
    assert noise[0] < noise[1]


def test_the_predicted_variance_is_the_measured() -> None:
    torch.manual_seed(0)
    model = compress(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 64, 4)), "L3")
    inputs = torch.randn(16, 8, 8, 8)
    predicted = []

    def weights() -> Tensor:
        model.zero_grad()
        (model(inputs) * torch.linspace(0, 1, 4)).square().sum().backward()
        site = model[0].site
        predicted.append(float((site.costs() / 9).sum()))
        return model[0].weight.grad.clone()

    for parameter in model[2].parameters():
        parameter.requires_grad_(False)
    samples = torch.stack([weights() for _ in range(60)])
    assert float(samples.var(0).sum()) == pytest.approx(sum(predicted) / len(predicted), rel=0.2)


def test_samples_are_told_apart_by_an_indexed_loader() -> None:
    data = [(image, index % 10) for index, image in enumerate(images(24))]
    model = compress(residual(), "L3", num_samples=24)
    with pytest.raises(ValueError, match="num_samples=24"):
        IndexedLoader(model, data[:5])
    for batch, targets in IndexedLoader(model, data, batch_size=8, shuffle=True):
        nn.functional.cross_entropy(model(batch), targets).backward()
    assert not model.conv1.site._per_index.isnan().any()
    assert model.compression.indices is None


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2_0.5", "densenet_bc_40_12"])
def test_zoo_models_take_schemes(name: str) -> None:
    names = zoo.list_models()
    name = name if name in names else next(one for one in names if one.startswith(name[:12]))
    model, plain = (zoo.create_model(name, num_classes=10, **flags) for flags in ({"compressed": "L3"}, {}))
    assert set(model.state_dict()) == set(plain.state_dict())
    sizes = [pytorch_models.measure_step(one, (2, 3, 32, 32), repeats=0).saved_bytes for one in (model, plain)]
    assert sizes[0] < sizes[1] / 7
    assert str(model.policy) == "compressed L3"
    with pytest.raises(ValueError, match="compressed=2"):
        zoo.create_model(name, compressed="L4", efficient=True)


def test_autoquant_sr_keeps_its_bound_in_few_bits() -> None:
    model, inputs = compress(residual(), "autoquant-sr").eval(), images()
    for step in range(2):
        torch.manual_seed(step)
        gradient(model, inputs)
    rows = model.compression.report()
    assert model.compression.average_bits < 6
    exact = gradient(residual().eval(), inputs)
    samples = torch.stack([gradient(model, inputs) for _ in range(40)])
    assert_unbiased(samples, exact)
    assert (samples - exact).square().sum(1).mean() <= 1.5 * exact.square().sum()
    assert rows
