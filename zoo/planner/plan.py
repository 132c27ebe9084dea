"""A plan: what was decided for a model under a budget, part by part, with what it should cost; knows no framework."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import frameworks
from zoo.atomic_write import atomic_write
from zoo.planner.kinds import KEEP
from zoo.planner.plan_file import FORMAT, checked_fields
from zoo.planner.steps import Steps, parts_of
from zoo.report import MIB, format_table


@dataclass(frozen=True)
class PlannedPart:
    """One part of a model, and what was decided for it.

    Args:
        name: the module's, or what lies between two of them.
        choice: the option's kind: "keep", "efficient", "4 bits".
        runs: how often its forward runs in a training step; 1 = nothing is computed again.
        plain_bytes, kept_bytes: what it keeps for its backward pass, its input not counted; by "keep", and as chosen.
        seconds: forward runs and backward.
    """

    name: str
    choice: str
    runs: int
    plain_bytes: int
    kept_bytes: int
    seconds: float

    @property
    def decision(self) -> str:
        """What was decided, in words.

        Example:
            >>> PlannedPart("layer1", "efficient", 2, 2**20, 0, 0.5).decision
            'run again, efficient'
        """
        if self.runs == 1:
            return self.choice
        return "run again" if self.choice == KEEP else f"run again, {self.choice}"


@dataclass(frozen=True)
class Plan:
    """What each part of a model keeps, recomputes or compresses, so that a training step fits a budget.

    Bytes are those of one step (activations, gradients, scratch): parameters, buffers and inputs are not in them.

    Args:
        framework: for which it was made.
        model: the model in words.
        fingerprint: of the architecture; a plan is refused by another one.
        input_shape: of the batch it was made for.
        parts: in the order they run.
        steps: the forward pass as numbers of parts; see `zoo.planner.steps`.
        budget_bytes: what was asked for.
        predicted_peak_bytes, predicted_seconds: of a step, by replaying the schedule on the cost graph.
        peak_bytes: measured with the plan applied; at most the budget.
        saved_bytes: measured at the end of the forward pass.
        plain_peak_bytes, plain_seconds: the same model with every part as it is.
        noise: variance of what compressed parts round, over the variance of all that is kept; 0 = exact.
        step_seconds: of a real step with the plan, where such were taken to choose by; see `zoo.planner.race`.

    Example:
        >>> part = PlannedPart("layer1", "keep", 2, 2**20, 2**20, 0.5)
        >>> peaks = {"budget_bytes": 2**21, "predicted_peak_bytes": 2**20, "peak_bytes": 2**20, "saved_bytes": 0}
        >>> plain = {"plain_peak_bytes": 2**22, "plain_seconds": 0.4}
        >>> made = {"framework": "torch", "model": "a net", "fingerprint": "f00d", "input_shape": (8, 3)}
        >>> plan = Plan(**made, parts=(part,), steps=((0,),), **peaks, **plain, predicted_seconds=0.5, noise=0.0)
        >>> print(plan.table().splitlines()[-1].split()[:4])
        ['layer1', 'run', 'again', '2']
    """

    framework: str
    model: str
    fingerprint: str
    input_shape: tuple[int, ...]
    parts: tuple[PlannedPart, ...]
    steps: Steps
    budget_bytes: int
    predicted_peak_bytes: int
    predicted_seconds: float
    peak_bytes: int
    saved_bytes: int
    plain_peak_bytes: int
    plain_seconds: float
    noise: float
    step_seconds: float | None = None

    def __post_init__(self) -> None:
        if parts_of(self.steps) != list(range(len(self.parts))):
            raise ValueError("a plan's steps must name every part once, in order")

    def apply(self, model: Any) -> Any:
        """Carry the plan out in a model; returns the model. `remove` undoes it.

        A model of another framework gets the same choices (`adapted`), which is planned and measured there.

        Raises:
            ValueError: the model is another than the plan was made for, or has a plan already.
        """
        framework = frameworks.framework_of(model) or self.framework
        return frameworks.load(framework).apply_plan(self.adapted(model), model)

    def adapted(self, model: Any) -> Plan:
        """The same choices for a model of any framework, its bytes and seconds predicted and measured there.

        What the framework lacks is replaced by the exact option that keeps least; a `PlanChangedWarning` lists it. For
        a model of the plan's own framework, the plan itself.

        Raises:
            ValueError: the model is another than the plan was made for.
        """
        framework = frameworks.framework_of(model) or self.framework
        if framework == self.framework:
            return self
        found: Plan = frameworks.load(framework).adapt_plan(self, model)
        return found

    def remove(self, model: Any) -> Any:
        """Give a model back what it kept before `apply`; returns the model. Without this plan, it does nothing."""
        framework = frameworks.framework_of(model) or self.framework
        return frameworks.load(framework).remove_plan(self, model)

    def undoes(self, carried: Plan | None) -> bool:
        """Whether `remove` takes away what a model carries out: this plan, or its form for the model's framework."""
        if carried is None:
            return False
        return carried == self or (carried.framework != self.framework and carried.fingerprint == self.fingerprint)

    @property
    def seconds(self) -> float:
        """Of a step: of a real one where such were taken, else as predicted."""
        return self.predicted_seconds if self.step_seconds is None else self.step_seconds

    def decides_as(self, other: Plan) -> bool:
        """Whether another plan runs and keeps everything as this one does."""
        choices = ([part.choice for part in plan.parts] for plan in (self, other))
        return self.steps == other.steps and next(choices) == next(choices)

    def is_of_other_model(self, fingerprint: str, kind: str) -> str:
        """Why the plan is not for a model of such a fingerprint; "" = it is."""
        if fingerprint == self.fingerprint:
            return ""
        return (
            f"the plan was made for another model ({self.model}, fingerprint {self.fingerprint}; this {kind} has "
            f"{fingerprint}): make one with zoo.plan(model, ...)"
        )

    def save(self, path: str | Path) -> None:
        """Write the plan as JSON, in one step."""
        path = Path(path).expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            text = json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=1)
            file.write(text.encode())

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file.
            ValueError: it holds no plan, or one of another version; names the field, what came and what is needed.
        """
        path = Path(path).expanduser()
        try:
            found = checked_fields(json.loads(path.read_text(encoding="utf-8")), cls, PlannedPart)
            found["parts"] = tuple(PlannedPart(**part) for part in found["parts"])
            return cls(**found)
        except RecursionError:
            raise ValueError(f"{path} holds no plan: it is nested too deeply") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} holds no plan: {error}; make it again with zoo.plan(...).save(path)") from None

    def summary(self) -> str:
        """What it costs and what it saves, in three lines."""
        shape = " x ".join(str(size) for size in self.input_shape)
        share = f" ({self.peak_bytes / self.plain_peak_bytes:.0%} of plain)" if self.plain_peak_bytes else ""
        slower = f", {self.predicted_seconds / self.plain_seconds:.2f}x of plain" if self.plain_seconds else ""
        real = "" if self.step_seconds is None else f"; {self.step_seconds:.3g} s measured"
        exact = "exact" if not self.noise else f"compressed, noise {self.noise:.2g} of the kept values' variance"
        return (
            f"{self.model}, input {shape}: {exact}\n"
            f"peak {self.peak_bytes / MIB:.1f} MiB{share} of a budget of {self.budget_bytes / MIB:.1f} MiB, predicted "
            f"{self.predicted_peak_bytes / MIB:.1f}; plain {self.plain_peak_bytes / MIB:.1f} MiB\n"
            f"step {self.predicted_seconds:.3g} s predicted{slower}{real}"
        )

    def table(self) -> str:
        """A line for every part."""
        rows = [
            (
                part.name,
                part.decision,
                str(part.runs),
                f"{part.plain_bytes / MIB:.1f}",
                f"{part.kept_bytes / MIB:.1f}",
                f"{part.seconds:.4f}",
            )
            for part in self.parts
        ]
        heads = ("part", "choice", "forward runs", "plain MiB", "kept MiB", "seconds")
        return "\n".join(format_table(heads, rows, left={0, 1}))

    def __str__(self) -> str:
        return f"{self.summary()}\n\n{self.table()}"
