"""A plan at work in a TensorFlow model: which part keeps by which policy, and stretches of parts that run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from tf_models.forward_pass import Pass
from tf_models.saving.tied import opaque, zero_after
from tf_models.tensorflow_names import tf
from zoo.planner.plan import Plan
from zoo.planner.steps import Steps
from zoo.policy import MemoryPolicy

PartFunction = Callable[[Any, Pass], Any]
NamedPart = tuple[str, PartFunction]


@dataclass(frozen=True)
class CarriedPlan:
    """What a model was given to carry out.

    Args:
        plan: of its own parts; None = every part is told to keep all.
        names: of those parts, in the order they run.
        policies: what each keeps by.
        steps: the forward pass as numbers of parts.
    """

    plan: Plan | None
    names: tuple[str, ...]
    policies: Mapping[str, MemoryPolicy]
    steps: Steps


def run_parts(carried: CarriedPlan | None, values: Any, parts: Sequence[NamedPart], run: Pass) -> Any:
    """Run a model's parts one after the other; with a plan, as it says.

    Args:
        carried: the model's plan, or None.
        values: what the first part reads.
        parts: name and function of each.
        run: the forward pass.
    """
    if carried is None:
        for _, function in parts:
            values = function(values, run)
        return values
    functions = dict(parts)
    planned = [(functions[name], carried.policies[name]) for name in carried.names]
    return _run_steps(values, replace(run, in_order=True), carried.steps, planned)


def run_again(function: PartFunction, values: Any, run: Pass) -> Any:
    """`function(values, run)`, of which `values` alone is kept: it runs again when its gradient is asked for.

    Exact: a function that draws by the pass's seeds alone computes the same a second time.
    """

    @tf.custom_gradient
    def segment(inputs: Any) -> tuple[Any, Callable[..., Any]]:
        def backward(gradient: Any, variables: Sequence[Any] = ()) -> Any:
            # Only once the gradient is there, or the second run would be found to be the first, and that be kept.
            zero = zero_after(gradient)
            with tf.control_dependencies([zero]), tf.GradientTape() as tape:
                start = opaque(inputs, zero)
                tape.watch(start)
                outputs = function(start, run.again())
            of_inputs, *rest = tape.gradient(outputs, [start, *variables], output_gradients=gradient)
            return (of_inputs, rest) if variables else of_inputs

        return function(inputs, run), backward

    return segment(values)


def _run_steps(values: Any, run: Pass, steps: Steps, planned: Sequence[tuple[PartFunction, MemoryPolicy]]) -> Any:
    for step in steps:
        if not isinstance(step, int):
            values = run_again(partial(_run_steps, steps=step, planned=planned), values, run)
        elif step < len(planned):  # the last of a plan is the loss
            function, policy = planned[step]
            values = function(values, run.by(policy))
    return values
