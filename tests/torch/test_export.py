"""Models with the memory flags on are exported for inference, where there is nothing to save: torch.export and ONNX."""

from __future__ import annotations

import warnings

import pytest
import torch
from tiny_densenet import TINY, images, pair

from pytorch_models import DenseNet, checkpoint_segments
from pytorch_models.saving import PlainPathWarning

FLAGS: tuple[dict[str, object], ...] = ({"efficient": True}, {"opt_memory": 3}, {})


def evaluating(**flags: object) -> tuple[DenseNet, DenseNet]:
    """A plain model and one with the flags, and with segments, in eval mode."""
    plain, model = pair(dtype=torch.float32, **flags)
    model.set_grad_checkpointing()
    checkpoint_segments(model, ["features.conv0", "classifier"])
    return plain.eval(), model.eval()


@pytest.mark.quick
@pytest.mark.parametrize("flags", FLAGS, ids=str)
def test_torch_export(flags: dict[str, object]) -> None:
    plain, model = evaluating(**flags)
    inputs = images(2).float()
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlainPathWarning)
        program = torch.export.export(model, (inputs,))
    assert not [node for node in program.graph.nodes if node.op == "call_function" and "aten" not in str(node.target)]
    torch.testing.assert_close(program.module()(inputs), plain(inputs), rtol=1e-5, atol=1e-6)


def test_torch_export_of_other_batch_sizes() -> None:
    plain, model = evaluating(efficient=True)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (images(4).float(),), dynamic_shapes=({0: batch},))
    inputs = images(7).float()
    torch.testing.assert_close(program.module()(inputs), plain(inputs), rtol=1e-5, atol=1e-6)


def test_torch_script_tracing() -> None:
    plain, model = evaluating(efficient=True)
    inputs = images(2).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        traced = torch.jit.trace(model, inputs)
    torch.testing.assert_close(traced(inputs), plain(inputs), rtol=1e-5, atol=1e-6)


def test_onnx() -> None:
    onnx = pytest.importorskip("onnx", reason="ONNX export is tested where onnx and onnxscript are (extra dev)")
    pytest.importorskip("onnxscript", reason="ONNX export is tested where onnx and onnxscript are (extra dev)")
    from onnx.reference import ReferenceEvaluator

    plain, model = evaluating(efficient=True)
    inputs = images(2).float()
    program = torch.onnx.export(model, (inputs,), dynamo=True, verbose=False)
    assert program is not None
    onnx.checker.check_model(program.model_proto)
    evaluator = ReferenceEvaluator(program.model_proto)
    (found,) = evaluator.run(None, {evaluator.input_names[0]: inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), plain(inputs).detach(), rtol=1e-4, atol=1e-5)


def test_a_model_trains_on_after_an_export() -> None:
    _, model = evaluating(efficient=True)
    torch.export.export(model, (images(2).float(),))
    model.train()(images(2).float()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("flags", [{"efficient": True}, {}], ids=str)
def test_compiled_models_with_segments_are_equal(flags: dict[str, object]) -> None:
    _, model = pair(drop_rate=0.1, **flags)
    model.set_grad_checkpointing()
    found = []
    for call in (model, torch.compile(model, backend="aot_eager")):
        torch.manual_seed(0)
        model.zero_grad()
        call(images()).square().sum().backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-10, atol=1e-12)


def test_a_whole_graph_is_refused_with_the_reason() -> None:
    model = DenseNet(**TINY)
    model.set_grad_checkpointing()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a segment runs again in the backward pass"):
        compiled(images().float())
