"""From the parts of a model to zoo's cost graph: what each part costs by each kind of keeping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from pytorch_models.densenet_blocks import DenseBlock, Transition
from pytorch_models.planning.alone import Cost, backward_bytes_beside, cost_of, seconds_of
from pytorch_models.planning.parts import FoundPart
from pytorch_models.planning.settings import kinds_of, needs_hooks, set_to
from pytorch_models.planning.skips import with_passing
from pytorch_models.planning.trace import Trace, storages_of, tensors_in
from pytorch_models.saving import call_that_made
from zoo.planner import CostGraph, Option, Part
from zoo.planner.kinds import KEEP, KINDS
from zoo.planner.noise import with_noise

LOSS = "(loss)"


@dataclass
class Pricing:
    """How parts are priced; parts that are alike are priced once.

    Args:
        model: the user's own, of which modules are timed; None = seconds by operations and bytes.
        kinds: that may be chosen from.
        batch: its size, so that timing may take fewer.
        copied: the model without data.
    """

    copied: nn.Module
    model: nn.Module | None
    kinds: Sequence[str]
    batch: int
    known: dict[Any, Cost]

    def cost(self, part: FoundPart, kind: str, after: FoundPart | None = None) -> Cost:
        """What a part costs by a kind, where the part `after` it reads it."""
        call = part.call
        assert call is not None, "only modules have kinds"
        reader = _taker(part, after, kind)
        key = (_looks_of(call.module), _looks_of_arguments((call.args, dict(call.kwargs))), kind, reader is not None)
        if key not in self.known:
            with set_to(call.module, self.copied, kind) as run:
                parameters = list(call.module.parameters())
                cost = cost_of(run, parameters, call.args, dict(call.kwargs))
                if reader is not None:
                    cost = replace(cost, backward_bytes=self._beside(part, reader, kind, run))
            if self.model is not None:
                cost = self._timed(part, kind, cost)
            self.known[key] = cost
        return self.known[key]

    def _beside(self, part: FoundPart, reader: Transition, kind: str, run: Callable[..., Any]) -> int:
        """Scratch of a block's backward pass whose gradient is handed over and not copied."""
        call = part.call
        assert call is not None
        with set_to(reader, self.copied, kind):
            return backward_bytes_beside(
                run,
                lambda values: reader(values, call_that_made(values)),
                list(call.module.parameters()),
                call.args,
                dict(call.kwargs),
            )

    def _timed(self, part: FoundPart, kind: str, cost: Cost) -> Cost:
        call, model = part.call, self.model
        assert call is not None
        assert model is not None
        module = model.get_submodule(part.name)
        estimate = cost.forward_seconds + cost.backward_seconds
        forward, backward = seconds_of(
            module, lambda own: set_to(own, model, kind), call.args, dict(call.kwargs), self.batch, estimate
        )
        return replace(cost, forward_seconds=forward, backward_seconds=backward)


def cost_graph(
    found: Trace, parts: Sequence[FoundPart], pricing: Pricing, loss: Callable[[Any], Tensor], reruns: bool
) -> CostGraph:
    """The model's parts and its loss as a chain.

    Args:
        loss: of the model's output.
        reruns: whether parts may be run again.
    """
    listed = [
        _between(found, parts, place) if part.call is None else _module(part, after, pricing, reruns)
        for place, (part, after) in enumerate(zip(parts, (*parts[1:], None), strict=True))
    ]
    listed = with_passing(with_noise(listed), found, parts)
    cost = cost_of(loss, [], (found.root.output,), {})
    end = Part(LOSS, cost.output_bytes, (_option(KEEP, cost),), cost.gradient_bytes, reruns=False, joins=False)
    return CostGraph.chain([*listed, end])


def _module(part: FoundPart, after: FoundPart | None, pricing: Pricing, reruns: bool) -> Part:
    assert part.call is not None
    kept = pricing.cost(part, KEEP)
    options = [_option(KEEP, kept)]
    for kind in kinds_of(part.call.module, pricing.copied, list(pricing.kinds)) if not part.fixed else ():
        cost = kept if kind == KEEP else pricing.cost(part, kind, after)
        same = (cost.resident_bytes, cost.needs_input) == (kept.resident_bytes, kept.needs_input)
        if kind != KEEP and not same:
            # Codes from outside are hooks, and a segment has hooks of its own.
            again = not needs_hooks(part.call.module, pricing.copied, kind)
            options.append(replace(_option(kind, cost), reruns=again))
    again = reruns and not part.fixed
    facts = (part.name, kept.output_bytes, tuple(options), kept.gradient_bytes)
    return Part(*facts, left_bytes=kept.left_bytes, reruns=again, joins=again and part.joins)


def _option(kind: str, cost: Cost) -> Option:
    return Option(
        kind,
        cost.resident_bytes,
        cost.forward_seconds,
        cost.backward_seconds,
        cost.forward_bytes,
        cost.backward_bytes,
        cost.keeps_output and cost.resident_bytes >= cost.output_bytes,
        cost.needs_input,
    )


def _between(found: Trace, parts: Sequence[FoundPart], place: int) -> Part:
    """What lies between two modules: it can only be kept, and its time is part of none."""
    part = parts[place]
    before = parts[place - 1].call if place else None
    start = found.root.start if before is None else before.end
    after = parts[place + 1].call if place + 1 < len(parts) else None
    end = found.root.end if after is None else after.start
    given = storages_of(before.outputs) if before is not None else {}
    reads = any(start <= found.saved[key][0] < end for key in given if key in found.saved)
    option = Option(KEEP, part.saved_bytes, 0.0, 0.0, keeps_output=False, needs_input=reads)
    return Part(part.name, part.output_bytes, (option,), reruns=False, joins=False)


def _taker(part: FoundPart, after: FoundPart | None, kind: str) -> Transition | None:
    """The transition that hands a dense block of the same kind its gradient, where there is one."""
    if after is None or after.call is None or part.call is None or not KINDS[kind].share_features:
        return None
    reader = after.call.module
    return reader if isinstance(part.call.module, DenseBlock) and type(reader) is Transition else None


def _looks_of(module: nn.Module) -> Any:
    """Equal for modules that cost the same."""
    tensors = (*module.parameters(), *module.buffers())
    kinds = tuple((tuple(t.shape), t.dtype, t.requires_grad) for t in tensors)
    return type(module), repr(module), kinds, tuple(child.training for child in module.modules())


def _looks_of_arguments(values: Any) -> Any:
    return tuple((tuple(t.shape), t.stride(), t.dtype, t.device, t.requires_grad) for t in tensors_in(values))
