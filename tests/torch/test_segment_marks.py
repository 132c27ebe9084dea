"""Who makes a module a segment, and how that is undone, copied and refused."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from segment_net import small_net
from tiny_densenet import TINY, assert_same, images, step
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_models import DenseNet, checkpoint_segments, measure_step
from pytorch_models.saving import PlainPathWarning
from pytorch_models.segments import ModuleConfig, is_segment


@pytest.mark.quick
def test_an_exception_leaves_nothing_behind() -> None:
    plain, model = small_net(), small_net()
    handle = model[1][3].register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), checkpoint_segments(model, ["0", "1"]):
        model(images())
    handle.remove()
    assert not any(is_segment(module) or hasattr(module, "config") for module in model.modules())
    for buffers in (plain, model):
        for module in buffers.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.reset_running_stats()
    assert_same(step(model, images()), step(plain, images()), tolerance=0.0)


@pytest.mark.quick
def test_each_handle_undoes_its_own() -> None:
    model = small_net()
    outer = checkpoint_segments(model, ["0", "1"])
    with checkpoint_segments(model, ["1", "4"]) as inner:
        assert inner.names == ("1", "4")
        outer.remove()
        assert [is_segment(module) for module in model] == [False, True, False, False, True]
    outer.remove()
    assert not any(is_segment(module) or hasattr(module, "config") for module in model.modules())


@pytest.mark.quick
def test_the_switch_on_the_zoos_modules() -> None:
    plain, model = DenseNet(**TINY, drop_rate=0.2).double(), DenseNet(**TINY, drop_rate=0.2).double()
    model.load_state_dict(plain.state_dict())
    config = model.features.denseblock1.config
    assert repr(config) == "ModuleConfig(activation_checkpointing=False)"
    before = measure_step(model, (4, 3, 8, 8), dtype=torch.float64, repeats=0).saved_bytes
    config.activation_checkpointing = True
    model.features.transition1.config.activation_checkpointing = True
    model.classifier.config.activation_checkpointing = True
    assert measure_step(model, (4, 3, 8, 8), dtype=torch.float64, repeats=0).saved_bytes < 0.6 * before
    assert_same(step(model, images()), step(plain, images()), tolerance=0.0)
    for module in model.modules():
        module.config.activation_checkpointing = False
    assert measure_step(model, (4, 3, 8, 8), dtype=torch.float64, repeats=0).saved_bytes == before


def test_a_switch_that_does_not_exist_or_a_wrong_value_is_refused() -> None:
    model = DenseNet(**TINY)
    config = model.features.config
    with pytest.raises(AttributeError, match="did you mean activation_checkpointing"):
        config.activation_checkpoint = True
    with pytest.raises(TypeError, match="True or False, not 1"):
        config.activation_checkpointing = 1


def test_a_segment_inside_a_fused_block_makes_it_plain_and_says_so() -> None:
    plain, model = DenseNet(**TINY).double(), DenseNet(**TINY, efficient=True).double()
    model.load_state_dict(plain.state_dict())
    model.features.denseblock1.denselayer2.config.activation_checkpointing = True
    expected = step(plain, images())
    with pytest.warns(PlainPathWarning, match="saves no memory: denselayer2 is a segment"):
        assert_same(step(model, images()), expected)


def test_globs_leave_out_what_is_never_called() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2), nn.Sequential(nn.ReLU())])})
    with checkpoint_segments(model, "**") as segments:
        assert segments.names == ("layers.0", "layers.1", "layers.1.0")
    with checkpoint_segments(small_net(), "") as segments:
        assert segments.names == ("",), "the whole model, when it is named"


def test_names_that_do_not_exist_or_cannot_be_called() -> None:
    model = DenseNet(**TINY)
    with pytest.raises(ValueError, match=r"unknown module 'features\.densblock1': did you mean features\.denseblock1"):
        checkpoint_segments(model, ["features.conv0", "features.densblock1"])
    assert not is_segment(model.features.conv0)
    with pytest.raises(ValueError, match="unknown module 'layer"):
        checkpoint_segments(model, "layer*")
    with pytest.raises(TypeError, match="must be strings, not 3"):
        checkpoint_segments(model, [3])
    with pytest.raises(TypeError, match="must be a string or several, not 3"):
        checkpoint_segments(small_net(), 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"parts of a torch\.nn\.Module, not of 3"):
        checkpoint_segments(3, "0")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layers is a ModuleList, which is never called itself.*layers\.\*"):
        checkpoint_segments(nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(2, 2)])}), "layers")
    with pytest.raises(TypeError, match="TorchScript"):
        checkpoint_segments(torch.jit.script(nn.Linear(2, 2)), "")


def test_names_are_found_behind_wrappers() -> None:
    wrapper = nn.Module()
    wrapper.module = DenseNet(**TINY)
    assert checkpoint_segments(wrapper, "features.denseblock*").names == (
        "features.denseblock1",
        "features.denseblock2",
    )


@pytest.mark.quick
def test_copies_and_pickles_are_segments_of_their_own() -> None:
    torch.manual_seed(0)
    model = DenseNet(**TINY)
    model.features.denseblock1.config.activation_checkpointing = True
    expected = step(copy.deepcopy(model).double(), images())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        block = twin.features.denseblock1
        assert block.config.activation_checkpointing
        assert_same(step(twin.double(), images()), expected, tolerance=0.0)
        block.config.activation_checkpointing = False
        assert not is_segment(block)
    assert is_segment(model.features.denseblock1)


def test_a_dropped_model_is_freed_at_once() -> None:
    model = DenseNet(**TINY)
    checkpoint_segments(model, "features.denseblock*")
    gc.collect()
    gc.disable()
    try:
        block = weakref.ref(model.features.denseblock1)
        loss = model(images().float()).sum()
        del model
        loss.backward()  # what the graph needs, it holds
        del loss
        assert block() is None
    finally:
        gc.enable()


def test_a_forward_set_on_the_instance_is_wrapped_and_given_back() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))

    def own(values: Tensor) -> Tensor:
        return F.linear(values, model[0].weight) * 3

    model[0].forward = own
    inputs = torch.ones(1, 3)
    expected = model(inputs)
    with checkpoint_segments(model, "0"):
        assert torch.equal(model(inputs), expected)
    assert model[0].forward is own


def test_a_config_of_its_own_stays() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].config = {"hidden": 2}
    with checkpoint_segments(model, "0"):
        assert model[0].config == {"hidden": 2}
        assert is_segment(model[0])
    assert model[0].config == {"hidden": 2}
    assert not isinstance(model[0].config, ModuleConfig)


def test_compiling_goes_around_segments() -> None:
    plain, model = small_net(), small_net()
    checkpoint_segments(model, ["0", "1"])
    compiled = torch.compile(model, backend="eager")
    assert_same(step(compiled, images()), _as_compiled(step(plain, images())), tolerance=0.0)


def _as_compiled(found: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same under the names that a compiled model's parameters have."""
    return {
        name.replace("gradient of ", "gradient of _orig_mod.").replace("buffer ", "buffer _orig_mod."): value
        for name, value in found.items()
    }
