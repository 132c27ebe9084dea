"""Runs of norm, activation and convolution for the zoo's image models, plain or keeping one tensor a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tf_models.layers import ConvolutionLayer, NormLayer, step_values
from tf_models.norms import Norm
from tf_models.operators import activate, max_pool
from tf_models.saving import Step, chain
from tf_models.zoo_model import ZooModel

Part = tuple[NormLayer | None, str, ConvolutionLayer | None]  # norm, activation, convolution


class ImageModel(ZooModel):
    """A zoo model of images."""

    def _steps(
        self,
        values: Any,
        parts: Sequence[Part],
        training: bool,
        *,
        shortcut: Any = None,
        activation: str = "",
        pools: bool = False,
        recomputes: Sequence[int] = (),
    ) -> Any:
        """Run parts one after the other; add the shortcut, activate.

        Args:
            values: images.
            parts: what to run.
            training: whether norms take the batch's statistics.
            shortcut: images to add at the end; None = nothing.
            activation: after that.
            pools: a max pool ends it.
            recomputes: of efficient models, the parts whose convolution's output is computed again.
        """
        if self.saves:
            return self._chain(values, parts, training, shortcut, activation, pools, recomputes)
        for norm, own, convolution in parts:
            if norm is not None:
                values = activate(norm(values, training=training), own)
            if convolution is not None:
                values = convolution(values)
        if pools:
            values = max_pool(values, self.data_format)
        return activate(values if shortcut is None else values + shortcut, activation)

    def _chain(
        self,
        values: Any,
        parts: Sequence[Part],
        training: bool,
        shortcut: Any,
        activation: str,
        pools: bool,
        recomputes: Sequence[int],
    ) -> Any:
        steps, tensors = [], []
        norms: list[tuple[NormLayer, Norm]] = []
        again = recomputes if self.keeping.recompute_bottleneck else ()
        for place, (norm, own, convolution) in enumerate(parts):
            how = None if norm is None else norm.how(training)
            ends = pools and place + 1 == len(parts)
            steps.append(Step(how, own, None if convolution is None else convolution.how, place in again, ends))
            tensors.append(step_values(norm, how, convolution))
            if norm is not None and how is not None:
                norms.append((norm, how))
        result, found = chain(values, steps, tensors, shortcut, activation)
        for (layer, setting), statistics in zip(norms, found, strict=True):
            if setting.trains:
                layer.move(statistics)
        return result
