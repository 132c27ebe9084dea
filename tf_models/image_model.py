"""Runs of norm, activation and convolution for the zoo's image models, plain or keeping one tensor a convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tf_models.compression import chain_prefers_codes, chain_sizes
from tf_models.forward_pass import Pass
from tf_models.layers import ConvolutionLayer, NormLayer, step_values
from tf_models.operators import activate, channel_axis, max_pool, spatial_sizes
from tf_models.saving import Step, chain
from tf_models.zoo_model import ZooModel

Part = tuple[NormLayer | None, str, ConvolutionLayer | None]  # norm, activation, convolution


class ImageModel(ZooModel):
    """A zoo model of images."""

    def _steps(
        self,
        values: Any,
        parts: Sequence[Part],
        run: Pass,
        *,
        shortcut: Any = None,
        activation: str = "",
        pools: bool = False,
        recomputes: Sequence[int] = (),
        keeps_input: bool = False,
        codes: bool | None = None,
    ) -> Any:
        """Run parts one after the other; add the shortcut, activate.

        Args:
            values: images.
            parts: what to run.
            run: the forward pass.
            shortcut: images to add at the end; None = nothing.
            activation: after that.
            pools: a max pool ends it.
            recomputes: of efficient models, the parts whose convolution's output is computed again.
            keeps_input: `values` are never coded, such as a network's input.
            codes: of compressed models, whether what is kept is coded; None = where that takes less, with `efficient`.
        """
        if run.saves:
            steps = self._chain_steps(parts, run, pools, recomputes)
            if codes is None:
                codes = self._codes_chain(values, steps, parts, run, activation, keeps_input)
            return self._chain(values, steps, parts, run, shortcut, activation, codes, keeps_input)
        for norm, own, convolution in parts:
            if norm is not None:
                values = activate(norm(values, training=run.training, moves=run.moves), own)
            if convolution is not None:
                values = convolution(values, in_order=run.in_order)
        if pools:
            values = max_pool(values, self.data_format)
        return activate(values if shortcut is None else values + shortcut, activation)

    def _chain_steps(self, parts: Sequence[Part], run: Pass, pools: bool, recomputes: Sequence[int]) -> list[Step]:
        """How parts run."""
        again = recomputes if run.policy.recompute_bottleneck else ()
        steps = []
        for place, (norm, activation, convolution) in enumerate(parts):
            how = None if norm is None else norm.how(run.training)
            ends = pools and place + 1 == len(parts)
            own = None if convolution is None else convolution.how
            steps.append(Step(how, activation, own, place in again, ends))
        return steps

    def _codes_chain(
        self, values: Any, steps: list[Step], parts: Sequence[Part], run: Pass, activation: str, keeps_input: bool
    ) -> bool:
        """Whether what parts keep is coded: always, but where `efficient` alone keeps less."""
        forms = run.forms
        if forms is None or not run.policy.efficient:
            return forms is not None
        convolutions = [None if part[2] is None else (part[2].how, part[2].out) for part in parts]
        channels = int(values.shape[channel_axis(self.data_format)])
        sizes = chain_sizes(
            *spatial_sizes(values.shape, self.data_format), channels, convolutions, any(step.pools for step in steps)
        )
        return chain_prefers_codes(forms, steps, sizes, 8 * values.dtype.size, activation, keeps_input)

    def _chain(
        self,
        values: Any,
        steps: list[Step],
        parts: Sequence[Part],
        run: Pass,
        shortcut: Any,
        activation: str,
        codes: bool,
        keeps_input: bool,
    ) -> Any:
        tensors = [step_values(part[0], step.norm, part[2]) for part, step in zip(parts, steps, strict=True)]
        coder = run.coder() if codes else None
        if coder is not None:
            steps = [replace(step, recomputes=False) for step in steps]
        result, found = chain(values, steps, tensors, shortcut, activation, coder, keeps_input)
        layers = [(part[0], step.norm) for part, step in zip(parts, steps, strict=True) if part[0] is not None]
        for (layer, setting), statistics in zip(layers, found, strict=True):
            if setting is not None and setting.trains and run.moves:
                layer.move(statistics)
        return result
