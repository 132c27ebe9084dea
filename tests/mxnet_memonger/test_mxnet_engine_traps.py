"""What MXNet 1.9.1 does outside its memory planner that the models here rely on, or keep away from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from mxnet_networks import IMAGES, assert_same_bits, mx, residual_network, step_results

from benchmarks.mxnet_memory import bound
from mxnet_memonger import compress
from mxnet_memonger.binding import bind_for_prediction, quiet_binding
from mxnet_memonger.symbol_graph import SymbolGraph


def test_gluon_ignores_marks() -> None:
    """A marked random operator draws anew in a bound network; in a hybridised block it does not run again."""
    data = mx.sym.Variable("data")
    sym = data * mx.sym.random.uniform_like(data, name="noise")
    marked = SymbolGraph.of(sym).with_mirrored([node.index for node in SymbolGraph.of(sym).nodes if node.op])
    found = step_results(marked, {"data": (4, 8)})
    values = mx.nd.array(np.random.default_rng(0).standard_normal((4, 8)) + 3)
    block = mx.gluon.SymbolBlock(marked, data)
    block.hybridize()
    values.attach_grad()
    with mx.autograd.record():
        product = block(values)
    product.backward()
    assert np.allclose(values.grad.asnumpy(), (product / values).asnumpy(), rtol=1e-5)
    exact = step_results(sym, {"data": (4, 8)})
    assert np.array_equal(found["output 0"], exact["output 0"])
    assert not np.allclose(found["gradient data"], exact["gradient data"], rtol=1e-2)


def before_activation() -> Any:
    """Norm, ReLU and convolution behind a sum, twice."""
    values = mx.sym.Convolution(
        mx.sym.Variable("data"), num_filter=16, kernel=(3, 3), pad=(1, 1), no_bias=True, name="stem"
    )
    for block in range(2):
        inner = mx.sym.BatchNorm(values, fix_gamma=False, name=f"b{block}_bn")
        inner = mx.sym.Activation(inner, act_type="relu", name=f"b{block}_relu")
        values = values + mx.sym.Convolution(
            inner, num_filter=16, kernel=(3, 3), pad=(1, 1), no_bias=True, name=f"b{block}_conv"
        )
    return values


def arrays_of(sym: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and states, and images."""
    executor = bound(sym, IMAGES)
    images = {"data": mx.nd.array(np.random.default_rng(1).standard_normal(IMAGES["data"]))}
    named = {name: array * 20 for name, array in executor.arg_dict.items() if name != "data"}
    states = {name: mx.nd.ones_like(array) for name, array in executor.aux_dict.items()}
    return {**named, **states}, images


def test_prediction_is_not_fused() -> None:
    """Outputs are those of an executor that is bound for training, at the same statistics."""
    sym = before_activation()
    arrays, images = arrays_of(sym)
    right = outputs(sym, arrays, images, "write")
    assert np.abs(right).max() > 0.1
    found = bind_for_prediction(sym, mx.cpu(), arrays, images).forward(is_train=False)[0].asnumpy()
    assert np.allclose(found, right, rtol=1e-4, atol=1e-5)
    with pytest.raises(mx.base.MXNetError, match="arg_names"):  # larger networks bind, and give wrong outputs
        outputs(sym, arrays, images, "null")


def outputs(sym: Any, arrays: dict[str, Any], images: dict[str, Any], asked: str) -> np.ndarray:
    """Of a forward pass for prediction, bound with or without gradients."""
    copies = {name: array.copy() for name, array in arrays.items()}
    arguments = {name: copies[name] for name in sym.list_arguments() if name != "data"} | images
    with quiet_binding():
        executor = sym.bind(
            mx.cpu(),
            args=arguments,
            args_grad={name: mx.nd.zeros_like(array) for name, array in arguments.items()} if asked != "null" else None,
            grad_req=asked,
            aux_states={name: copies[name] for name in sym.list_auxiliary_states()},
        )
    result: np.ndarray = executor.forward(is_train=False)[0].asnumpy()
    return result


def test_prediction_leaves_parameters_as_they_were() -> None:
    """Other operators can write to them: inference would have left them in layouts of MKL-DNN's."""
    sym = before_activation()
    arrays, images = arrays_of(sym)
    before = {name: array.asnumpy() for name, array in arrays.items()}
    bind_for_prediction(sym, mx.cpu(), arrays, images).forward(is_train=False)[0].wait_to_read()
    for name, array in arrays.items():
        assert np.array_equal(array.asnumpy(), before[name])
        mx.nd.sgd_update(array, mx.nd.ones_like(array), lr=0.5, out=array)
        assert np.allclose(array.asnumpy(), before[name] - 0.5)


@pytest.mark.slow
def test_networks_of_codes_do_not_disturb_one_another() -> None:
    """Python operators are asked for arrays by the dependencies of whichever was bound last."""
    first, second = compress(residual_network(2), "8"), compress(before_activation(), "2")
    alone = step_of_codes(bound(first, IMAGES))
    executor = bound(first, IMAGES)
    step_of_codes(bound(second, IMAGES))
    assert_same_bits(step_of_codes(executor), alone)


def step_of_codes(executor: Any) -> dict[str, np.ndarray]:
    """Outputs and gradients of one step."""
    executor.forward(is_train=True)
    executor.backward([mx.nd.ones(output.shape) for output in executor.outputs])
    mx.nd.waitall()
    gradients = {f"gradient {name}": array.asnumpy() for name, array in executor.grad_dict.items() if array is not None}
    return {"output": executor.outputs[0].asnumpy(), **gradients}
