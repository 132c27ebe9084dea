"""A plan at work in a TensorFlow model: which part keeps by which policy, and stretches of parts that run again."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tf_models.saving.tied import opaque, zero_after
from tf_models.tensorflow_names import tf
from zoo.planner.plan import Plan
from zoo.planner.steps import Steps
from zoo.policy import MemoryPolicy

NamedPart = tuple[str, Callable[[Any], Any]]


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


_policy: contextvars.ContextVar[MemoryPolicy | None] = contextvars.ContextVar(
    "policy of the running part", default=None
)
_again: contextvars.ContextVar[bool] = contextvars.ContextVar("a part runs again", default=False)


def policy_now() -> MemoryPolicy | None:
    """The policy of the part that runs now; None = no plan decides."""
    return _policy.get()


def runs_again() -> bool:
    """Whether what runs now has run before in this step: statistics do not move a second time."""
    return _again.get()


def run_parts(carried: CarriedPlan | None, values: Any, parts: Sequence[NamedPart]) -> Any:
    """Run a model's parts one after the other; with a plan, as it says.

    Args:
        carried: the model's plan, or None.
        values: what the first part reads.
        parts: name and function of each.
    """
    if carried is None:
        for _, function in parts:
            values = function(values)
        return values
    functions = dict(parts)
    run = {name: by_policy(functions[name], carried.policies[name]) for name in carried.names}
    return _run_steps(carried.steps, [run[name] for name in carried.names], values)


def run_again(function: Callable[[Any], Any], values: Any) -> Any:
    """`function(values)`, of which `values` alone is kept: it runs again when its gradient is asked for.

    Exact: a function that draws nothing and moves statistics by `NormLayer.move` computes the same a second time.
    """

    @tf.custom_gradient
    def segment(inputs: Any) -> tuple[Any, Callable[..., Any]]:
        def backward(gradient: Any, variables: Sequence[Any] = ()) -> Any:
            # Only once the gradient is there, or the second run would be found to be the first, and that be kept.
            zero = zero_after(gradient)
            with tf.control_dependencies([zero]), tf.GradientTape() as tape:
                start = opaque(inputs, zero)
                tape.watch(start)
                outputs = in_rerun(function, start)
            of_inputs, *rest = tape.gradient(outputs, [start, *variables], output_gradients=gradient)
            return (of_inputs, rest) if variables else of_inputs

        return function(inputs), backward

    return segment(values)


def _run_steps(steps: Steps, run: Sequence[Callable[[Any], Any]], values: Any) -> Any:
    for step in steps:
        if isinstance(step, int):
            if step < len(run):  # the last of a plan is the loss
                values = run[step](values)
        else:
            values = run_again(partial(_run_steps, step, run), values)
    return values


def by_policy(function: Callable[[Any], Any], policy: MemoryPolicy) -> Callable[[Any], Any]:
    """A part's function that keeps by a policy, whatever its model's is."""

    def run(values: Any) -> Any:
        with _set(_policy, policy):
            return function(values)

    return run


def in_rerun(function: Callable[[Any], Any], values: Any) -> Any:
    """`function(values)`, whose norms move no statistics."""
    with _set(_again, True):
        return function(values)


@contextlib.contextmanager
def _set(variable: contextvars.ContextVar[Any], value: Any) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)
