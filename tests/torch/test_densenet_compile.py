"""torch.compile and torch.export around a model that saves memory: equal, or refused with the reason."""

from __future__ import annotations

import pytest
import torch
from tiny_densenet import assert_same, images, pair

EFFICIENT = {"efficient": True}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_torch_compile_is_equal(backend: str) -> None:
    plain, other = pair(**EFFICIENT)
    compiled = torch.compile(other, backend=backend)
    inputs = images()
    outputs = compiled(inputs)
    outputs.square().sum().backward()
    expected = plain(inputs)
    expected.square().sum().backward()
    found = {n: p.grad for n, p in other.named_parameters()} | dict(other.named_buffers())
    assert_same(found, {n: p.grad for n, p in plain.named_parameters()} | dict(plain.named_buffers()))


def test_torch_compile_fullgraph_is_refused_with_the_reason() -> None:
    torch._dynamo.reset()  # else the graph of the test before is found and used
    _, other = pair(**EFFICIENT)
    with pytest.raises(Exception, match="one autograd Function"):
        torch.compile(other, backend="eager", fullgraph=True)(images())


def test_export_takes_the_plain_path() -> None:
    _, other = pair(**EFFICIENT)
    other.eval()
    exported = torch.export.export(other, (images(),)).module()
    torch.testing.assert_close(exported(images()), other(images()), rtol=1e-12, atol=1e-12)
