"""What one call of a dense block needs to know, read off its modules before the Function runs.

Parameters travel as the Function's tensor arguments, so that autograd sees them; everything else (geometry, which
statistics a norm uses, dropout, dtypes) travels in these frozen values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pytorch_models.compression import NoiseSeeds
from pytorch_models.saving.dense_storage import DenseStorage, choose_storage
from pytorch_models.saving.gradient_sink import GradientSink
from pytorch_models.saving.norm import uses_batch_statistics
from pytorch_models.saving.tiles import Workspace, convolution_format, tile_elements
from pytorch_models.saving.unit_call import UNIT_PARAMETERS, Convolution, Unit, autocast_dtype_of, unit_parameters
from zoo.policy import MemoryPolicy


@dataclass(frozen=True)
class LayerCall:
    """One dense layer in one call: its units, its input width, its dropout."""

    units: tuple[Unit, ...]
    in_features: int
    bottleneck_features: int  # 0 without a bottleneck
    new_features: int
    drop_rate: float

    @property
    def channels(self) -> slice:
        """Where the layer's new features stand in the block's buffer."""
        return slice(self.in_features, self.in_features + self.new_features)


@dataclass(frozen=True)
class BlockCall:
    """One dense block in one call."""

    layers: tuple[LayerCall, ...]
    storage: DenseStorage
    noise_seed: int  # of the codes, if there are any
    feature_dtype: torch.dtype
    compute_dtype: torch.dtype
    dropout_format: torch.memory_format  # in which the plain block would draw its masks
    keeps_graph: bool
    plain_order: bool  # the outputs are the plain block's to the bit
    sink: GradientSink  # of the output's gradient

    def dtype_of_unit(self, position: int) -> torch.dtype:
        """In which a layer's first or second norm reads its values."""
        return self.feature_dtype if position == 0 else self.compute_dtype

    @property
    def code_eps(self) -> float:
        """What is added to a variance before features are normalised for their codes."""
        return float(self.layers[0].units[0].norm.eps)

    @property
    def out_features(self) -> int:
        """Channels of the block's output."""
        return self.layers[-1].channels.stop

    def workspace(self, shape: torch.Size, device: torch.device) -> Workspace:
        """Scratch for one pass over inputs (or features) of `shape`, sized for the layer that needs most."""
        widths = [width for layer in self.layers for width in (layer.in_features, layer.bottleneck_features)]
        sizes = [tile_elements((shape[0], width, *shape[2:]), self.feature_dtype, device) for width in widths]
        return Workspace(device, {"tile": max(sizes)})


def read_block(
    block: nn.ModuleDict, inputs: Tensor, policy: MemoryPolicy, seeds: NoiseSeeds
) -> tuple[BlockCall, list[Tensor | None]]:
    """Facts and parameters of a block whose layers are known to be eligible."""
    parameters: list[Tensor | None] = []
    layers = []
    width = inputs.shape[1]
    modules: Any = block.values()
    for layer in modules:
        pairs = [(layer.norm1, layer.conv1)] + ([(layer.norm2, layer.conv2)] if layer.bottleneck else [])
        units = []
        for norm, conv in pairs:
            start = len(parameters)
            parameters += unit_parameters(norm, conv)
            where = slice(start, start + UNIT_PARAMETERS)
            units.append(Unit(norm, uses_batch_statistics(norm), Convolution.of(conv), where))
        bottleneck = pairs[0][1].out_channels if layer.bottleneck else 0
        drop_rate = layer.drop_rate if layer.training else 0.0
        layers.append(LayerCall(tuple(units), width, bottleneck, pairs[-1][1].out_channels, drop_rate))
        width = layers[-1].channels.stop
    weight = parameters[2 - UNIT_PARAMETERS]  # not read again: that would move a parametrised weight's state
    assert weight is not None, "a convolution has a weight"
    autocast_dtype = autocast_dtype_of(inputs.device)
    compute_dtype = weight.dtype if autocast_dtype is None or weight.dtype == torch.float64 else autocast_dtype
    feature_dtype = torch.promote_types(inputs.dtype, compute_dtype)
    storage = choose_storage(policy, layers, inputs.shape, feature_dtype)
    keeps_graph = torch.is_grad_enabled()
    call = BlockCall(
        tuple(layers),
        storage,
        seeds.next() if storage.codec is not None and keeps_graph else 0,
        feature_dtype,
        compute_dtype,
        convolution_format(inputs, weight),
        keeps_graph,
        plain_order=not policy.recomputes,
        sink=GradientSink(),
    )
    return call, parameters
