"""The doors to the planner: a plan for a model, a model made with one, and the largest batch that fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo import frameworks
from zoo.field_checks import check_device_name
from zoo.largest import largest_that_fits
from zoo.measuring import image_shape_for

if TYPE_CHECKING:
    from zoo.planner import Plan
    from zoo.planner.study import PlanStudy

BATCH = 64
LEAST_BATCH, MOST_SAMPLES = 2, 2**40  # batch norms need two


def plan(
    model: Any,
    batch: Any = BATCH,
    *,
    budget: int | float | str,
    allow: str | Iterable[str] = ("recompute",),
    max_noise: float | None = None,
    objective: str = "time",
    loss: Callable[[Any], Any] | None = None,
    times: str = "measured",
    solver: str = "chain",
    amp: bool = False,
    device: str | None = None,
    framework: str | None = None,
) -> Plan:
    """What each part of a model should keep, recompute or compress so that a training step fits a byte budget.

    The plan's peak is measured (without computing anything) before it is given: it is never above the budget. Bytes
    are a step's own: activations, gradients and scratch; parameters, buffers, inputs and the optimiser's state are not
    in them. The model is not changed; `plan.apply(model)` carries the plan out, `plan.remove(model)` undoes that.

    Args:
        model: any model of PyTorch, or one of the zoo in TensorFlow or MXNet; its memory flags give way to the plan.
        batch: a tensor, a tuple of the model's arguments, a mapping of keywords, a shape with the batch first, or, for
            a model of the zoo, the number of samples.
        budget: bytes, text such as "2GiB" or "512MB", or a fraction, of what the plain model's step needs.
        allow: out of "recompute" (exact), "compress" (lossy, unbiased weight gradients) and "swap" (exact: from a GPU
            to host memory and back; elsewhere left out with a `PlanChangedWarning`).
        max_noise: the most noise, as a share of the kept values' variance; None = any that "compress" brings.
        objective: "time", the fastest within the budget; or "memory", the one that needs least.
        loss: of what the model gives; by default cross-entropy of (N, classes) scores, else a mean square.
        times: "measured", each kind of part is run for a moment; or "counted", by operations and bytes: the same plan
            on every machine.
        solver: "chain", a dynamic programme for any model; or "milp", HiGHS's optimum of the joint 0-1 programme, for
            at most 16 parts: it knows a limit on noise exactly, but runs nothing again more than once.
        amp: the step will run in mixed precision, as `train` and the demo do it.
        device: where it will run; None = where the model is.
        framework: the model's; None = by its class.

    Raises:
        zoo.planner.InfeasibleBudgetError: no plan fits; states the smallest budget that one does.
        TypeError: something that is no model, batch or budget.
        ValueError: a budget or word that means nothing; a model that decides by values what it computes, naming the
            module.

    Example:
        >>> import zoo
        >>> model = zoo.create_model("resnet20")
        >>> plan = zoo.plan(model, 8, budget=0.6, times="counted")
        >>> plan.peak_bytes <= plan.budget_bytes < plan.plain_peak_bytes
        True
    """
    _check_device(device)
    package = _package(framework, model)
    asked: dict[str, Any] = {"allow": allow, "max_noise": max_noise, "objective": objective, "loss": loss}
    asked |= {"times": times, "solver": solver, "amp": amp, "device": device}
    found: Plan = package.make_plan(model, _batch(model, batch), budget=budget, **asked)
    return found


def study(
    model: Any,
    batch: Any = BATCH,
    *,
    budget: int | float | str,
    allow: str | Iterable[str] = ("recompute",),
    max_noise: float | None = None,
    loss: Callable[[Any], Any] | None = None,
    times: str = "measured",
    amp: bool = False,
    device: str | None = None,
    others: bool = False,
    framework: str | None = None,
) -> PlanStudy:
    """`plan`, with what `zoo.plan_pictures` draws beside it.

    Args:
        others: with what PyTorch itself offers, `save_on_cpu` and torch.compile's memory budget: real steps are run,
            of the model as it is and where it is.

    Raises:
        As `plan`; ValueError: others in another framework than PyTorch, or together with amp or a device.
    """
    _check_device(device)
    package = _package(framework, model)
    if others and not hasattr(package, "points_of_others"):
        raise ValueError(f"study: others are methods of PyTorch, and {package.__name__} is not: leave others out")
    if others and (amp or device is not None):
        raise ValueError(
            "study: others are steps of the model as it is, in its own precision: leave others out, or amp and device"
        )
    asked = {"allow": allow, "max_noise": max_noise, "loss": loss, "times": times, "amp": amp, "device": device}
    found: PlanStudy = package.study_plan(model, _batch(model, batch), budget=budget, **asked)
    if others:
        points = package.points_of_others(model, _batch(model, batch), loss)
        found = dataclasses.replace(found, methods={**found.methods, **points})
    return found


def max_batch(
    model: Any,
    input_shape: Sequence[int],
    budget: int | str,
    *,
    allow: str | Iterable[str] = ("recompute",),
    loss: Callable[[Any], Any] | None = None,
    verify: bool = True,
    framework: str | None = None,
) -> int:
    """The largest batch whose training step fits a budget, with the plan that needs least; 0 = not even one of two.

    Bytes grow almost linearly with the batch, so a few plans are enough; the answer's own plan was measured, and the
    next larger batch's does not fit. Then one real step of that batch is run on a copy of the model.

    Args:
        model, allow, loss, framework: as `plan`.
        input_shape: of one sample, without the batch; channels first, in every framework.
        budget: bytes or text.
        verify: run that step. False = any size can be asked for, on any machine.

    Raises:
        MemoryError: the step to verify needs more memory than this machine has.
        TypeError, ValueError: as `plan`.

    Example:
        >>> import zoo
        >>> 2 <= zoo.max_batch(zoo.create_model("resnet20"), (3, 32, 32), "3MB") < 8
        True
    """
    from zoo.planner import parse_budget

    if isinstance(budget, float) and 0 < budget < 1:
        raise ValueError(f"max_batch: budget={budget}: a share of which batch's bytes? Give bytes, or '2GiB'")
    if not isinstance(input_shape, Sequence) or isinstance(input_shape, str):
        raise TypeError(f"max_batch: input_shape must be the shape of one sample, as (3, 32, 32), not {input_shape!r}")
    limit, package = parse_budget(budget), _package(framework, model)
    _check_channels_first(model, (1, *input_shape))

    def plan_of(samples: int) -> Plan:
        asked = {"allow": allow, "objective": "memory", "times": "counted", "loss": loss}
        found: Plan = package.make_plan(model, (samples, *input_shape), budget=2**60, **asked)
        return found

    plans: dict[int, Plan] = {}
    found, _, _ = largest_that_fits(lambda n: _known(plans, n, plan_of).peak_bytes, limit, LEAST_BATCH, MOST_SAMPLES)
    while found and verify and package.real_peak(_known(plans, found, plan_of), model, loss) > limit:
        found -= 1
    return found


def _known(plans: dict[int, Plan], samples: int, make: Callable[[int], Plan]) -> Plan:
    if samples not in plans:
        plans[samples] = make(samples)
    return plans[samples]


def planned_model(framework: str, model: Any, budget: int | float | str, batch_size: int) -> Any:
    """The model with the plan for a batch applied to it.

    Raises:
        As `plan`.
    """
    return plan(model, batch_size, budget=budget, framework=framework).apply(model)


def _check_device(device: str | None) -> None:
    if device is not None:
        check_device_name(device, auto=True, where="plan: ")


def _package(framework: str | None, model: Any) -> ModuleType:
    if isinstance(model, type):
        raise TypeError(f"plan: needed is a model, not the class {model.__name__}: give {model.__name__}(...)")
    if isinstance(model, str):
        raise TypeError(f"plan: needed is a model, not the name {model!r}: give zoo.create_model({model!r})")
    return frameworks.load(framework or frameworks.framework_of(model) or "torch")


def _batch(model: Any, batch: Any) -> Any:
    if isinstance(batch, bool) or not isinstance(batch, int):
        _check_channels_first(model, batch)
        return batch
    if batch < 1:
        raise ValueError(f"plan: batch must be at least 1, not {batch}")
    if getattr(model, "spec", None) is None:
        kind = type(model).__name__
        raise TypeError(f"plan: how large one sample of a {kind} is, is not known: give a batch or its shape")
    return image_shape_for(model, None, batch)


def _check_channels_first(model: Any, batch: Any) -> None:
    channels = getattr(getattr(model, "spec", None), "in_chans", None)
    is_shape = isinstance(batch, tuple) and len(batch) == 4 and all(isinstance(size, int) for size in batch)
    if channels is None or not is_shape or batch[1] == channels or batch[3] != channels:
        return
    count, height, width, _ = batch
    raise ValueError(
        f"plan: images of shape {(height, width, channels)}: shapes have the channels first here, in every framework: "
        f"give {(count, channels, height, width)}, or of one sample {(channels, height, width)}"
    )
