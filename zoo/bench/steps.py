"""Tables of training steps: saved bytes, peak bytes and time of the same network kept in several ways."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import zoo
from zoo import frameworks
from zoo.bench.published import NOTHING, Published
from zoo.bench.table import SEED, Column, Place, Row, with_ratios

COLUMNS: tuple[Column, ...] = (
    Column("network", "network"),
    Column("case", "kept"),
    Column("published", "published"),
    Column("published_mb_ratio", "published memory", "ratio"),
    Column("published_saved_ratio", "published saved", "ratio"),
    Column("published_time_ratio", "published time", "ratio"),
    Column("saved_bytes", "saved MiB", "mib"),
    Column("saved_ratio", "of plain", "ratio"),
    Column("peak_bytes", "peak MiB", "mib"),
    Column("peak_ratio", "of plain", "ratio"),
    Column("seconds", "step s", "seconds"),
    Column("seconds_p10", "p10", "seconds"),
    Column("seconds_p90", "p90", "seconds"),
    Column("time_ratio", "of plain", "ratio"),
    Column("samples", ""),
    Column("input", ""),
    Column("timed_input", ""),
    Column("dtype", ""),
    Column("published_mb", ""),
    Column("published_seconds", ""),
)
RATIOS: Mapping[str, str] = MappingProxyType(
    {
        "published_mb_ratio": "published_mb",
        "published_time_ratio": "published_seconds",
        "saved_ratio": "saved_bytes",
        "peak_ratio": "peak_bytes",
        "time_ratio": "seconds",
    }
)


@dataclass(frozen=True)
class StepCase:
    """One way to keep what the backward pass needs.

    Args:
        name: in the table.
        flags: memory flags of `zoo.create_model`.
        published: what was reported for it.
        processes: that share the batch (PyTorch's DistributedDataParallel); memory is the first one's. Steps are run
            with `StepNetwork.shape`, for bytes and time, and the time is one median.
    """

    name: str
    flags: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    published: Published = NOTHING
    processes: int = 1


@dataclass(frozen=True)
class StepNetwork:
    """A network and the ways it is kept; the first is plain.

    Args:
        model: a name of `zoo.list_models()`.
        shape: of the input whose bytes are told; nothing is computed for them.
        timed_shape: of the input whose step is timed; None = no times.
        cases: of the table.
        overrides: fields of the model's config that are changed.
        title: in the table; by default the model's name.
    """

    model: str
    shape: tuple[int, ...]
    timed_shape: tuple[int, ...] | None
    cases: tuple[StepCase, ...]
    overrides: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    title: str = ""

    @property
    def name(self) -> str:
        """In the table."""
        return self.title or self.model


@dataclass(frozen=True)
class StepWork:
    """Steps of some networks.

    Args:
        networks: one after the other.
        rounds: timed steps of each case, in turns, so that a slow moment of the machine slows all of them.
        ntrial: in MXNet, how long memonger searches for a plan; 0 = it takes the best plan found without a search.
    """

    networks: tuple[StepNetwork, ...]
    rounds: int = 3
    ntrial: int = 0

    @property
    def columns(self) -> Sequence[Column]:
        """Of a step's memory and time."""
        return COLUMNS

    @property
    def conditions(self) -> Mapping[str, str]:
        """Shapes, rounds, seed."""
        found = {}
        for network in self.networks:
            timed = f"; times with {_size(network.timed_shape)}" if network.timed_shape else "; no times"
            found[network.name] = f"bytes of a step with input {_size(network.shape)}{timed}"
        if any(network.timed_shape for network in self.networks):
            found["times"] = f"median, 10th and 90th percentile of {self.rounds} steps in turns, each after a warm-up"
        searched = {"search": f"memonger's, ntrial {self.ntrial}"} if self.ntrial else {}
        return {**found, **searched, "seed": str(SEED)}

    def untimed(self) -> StepWork:
        """Bytes alone, of the same inputs."""
        networks = tuple(replace(network, timed_shape=None) for network in self.networks)
        return replace(self, networks=networks, rounds=1)

    def rows(self, place: Place) -> Iterator[Row]:
        """Network by network; ratios are to its first case."""
        for network in self.networks:
            found = [self._bytes(network, case, place) for case in network.cases]
            times = self._times(network, place)
            yield from with_ratios([{**row, **times.get(row["case"], {})} for row in found], RATIOS)

    def _bytes(self, network: StepNetwork, case: StepCase, place: Place) -> dict[str, Any]:
        row = {"network": network.name, "case": case.name, **case.published.row(), "input": _size(network.shape)}
        package = frameworks.load(place.framework)
        model = _model(network, case, place)
        how: dict[str, Any] = {"device": place.device}
        if case.processes > 1:  # started once for bytes and times: processes take longer to start than steps
            found = package.measure_in_processes(model, network.shape, case.processes, repeats=self.rounds, **how)
            if network.timed_shape is not None:
                row |= {"seconds": found.step_seconds, "samples": 1, "timed_input": _size(network.shape)}
        else:
            if self.ntrial and case.flags.get("efficient"):
                model.for_training(network.shape, self.ntrial)
            found = package.measure_step(model, network.shape, repeats=0, execute=False, **how)
        return {**row, "saved_bytes": found.saved_bytes, "peak_bytes": found.peak_bytes, "dtype": found.dtype}

    def _times(self, network: StepNetwork, place: Place) -> dict[str, dict[str, Any]]:
        """Of the cases of one process, by name."""
        shape, package = network.timed_shape, frameworks.load(place.framework)
        if shape is None:
            return {}
        models = [(case, _model(network, case, place)) for case in network.cases if case.processes == 1]
        seconds: list[list[float]] = [[] for _ in models]
        for _ in range(self.rounds):
            for (_, model), taken in zip(models, seconds, strict=True):
                taken.append(package.measure_step(model, shape, device=place.device, repeats=1).step_seconds)
        return {
            case.name: {"timed_input": _size(shape), **percentiles(taken)}
            for (case, _), taken in zip(models, seconds, strict=True)
        }


def percentiles(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, 10th and 90th percentile (the nearest sample), and how many there were.

    Example:
        >>> percentiles([0.3, 0.1, 0.2])
        {'seconds': 0.2, 'samples': 3, 'seconds_p10': 0.1, 'seconds_p90': 0.3}
    """
    ordered = sorted(seconds)
    found: dict[str, Any] = {"seconds": statistics.median(ordered), "samples": len(ordered)}
    if len(ordered) < 2:
        return found
    return {**found, "seconds_p10": ordered[len(ordered) // 10], "seconds_p90": ordered[-1 - len(ordered) // 10]}


def _model(network: StepNetwork, case: StepCase, place: Place) -> Any:
    frameworks.load(place.framework).set_seed(SEED)
    return zoo.create_model(network.model, place.framework, **case.flags, **network.overrides)


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
