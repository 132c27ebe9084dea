"""What TensorFlow allocates while something runs, replayed from its profiler's allocation events."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tf_models.tensorflow_names import tf

# With TensorFlow's other allocator, the profiler is told of every allocation; it is chosen when TensorFlow starts.
TELLS_ALL = "TF_CPU_ALLOCATOR_USE_BFC"
LEAST_TOLD_BYTES = 1 if os.environ.get(TELLS_ALL, "").lower() in ("1", "true") else 2**18  # on a CPU
_ALLOCATED, _FREED = "MemoryAllocation", "MemoryDeallocation"


@dataclass(frozen=True)
class Allocations:
    """A run's allocations.

    Args:
        peak_bytes: the most that was requested and not yet freed at one moment, of what the run itself allocated.
        held_bytes: the same when the operator called `marker` ran; None = it was not seen.
        at_peak: bytes by the operator that allocated them, at the moment of the peak.
        largest_bytes: the largest single allocation.
    """

    peak_bytes: int
    held_bytes: int | None
    at_peak: Mapping[str, int]
    largest_bytes: int


def record(run: Callable[[], Any], marker: str = "") -> Allocations:
    """Run something under the profiler and replay what was allocated and freed.

    Bytes are those that were asked for; what was allocated before is not counted, and what is returned is until the
    end. On a CPU, TensorFlow tells of no allocation below 256 KiB, and such are not counted, but where the process was
    started with TF_CPU_ALLOCATOR_USE_BFC=true. Only one run can be recorded at a time: TensorFlow has one profiler.

    Args:
        run: is called once.
        marker: the name of an operator, as in a graph; what is held when it ends is told.
    """
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        try:
            returned = run()
            tf.nest.map_structure(lambda one: one.numpy() if hasattr(one, "numpy") else one, returned)
        finally:
            tf.profiler.experimental.stop()
        files = list(Path(folder).rglob("*.xplane.pb"))
        events = sorted(_events(files[0], marker)) if files else []
    return replay(events)


def record_most(run: Callable[[], Any], marker: str, times: int) -> Allocations:
    """Of several recorded runs the one that needed most: operators run side by side, so that no two need be alike."""
    return max((record(run, marker) for _ in range(times)), key=lambda found: found.peak_bytes)


def replay(events: list[tuple[int, str, int, int, str]]) -> Allocations:
    """Add up allocations in their order.

    Args:
        events: time, kind, address, bytes, operator. Kinds other than the two of memory are markers.

    Example:
        >>> a, f = "MemoryAllocation", "MemoryDeallocation"
        >>> replay([(0, a, 1, 8, "x"), (1, a, 2, 4, "y"), (2, f, 1, 8, ""), (3, "end", 0, 0, "")]).peak_bytes
        12
    """
    live: dict[int, tuple[int, str]] = {}
    total, peak, largest, held = 0, 0, 0, None
    at_peak: dict[int, tuple[int, str]] = {}
    for _, kind, address, size, operator in events:
        if kind == _ALLOCATED:
            live[address] = (size, operator)
            total, largest = total + size, max(largest, size)
            if total > peak:
                peak, at_peak = total, dict(live)
        elif kind == _FREED:
            total -= live.pop(address, (0, ""))[0]
        else:
            held = total
    by_operator: dict[str, int] = {}
    for size, operator in at_peak.values():
        by_operator[operator] = by_operator.get(operator, 0) + size
    return Allocations(peak, held, by_operator, largest)


def _events(path: Path, marker: str) -> Iterator[tuple[int, str, int, int, str]]:
    """Allocation events, and the ends of the marked operator, in nanoseconds."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        names = {key: one.name.partition("#")[0] for key, one in plane.event_metadata.items()}
        stats = {key: one.name for key, one in plane.stat_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                kind = names[event.metadata_id]
                start = line.timestamp_ns * 1000 + event.offset_ps
                if kind in (_ALLOCATED, _FREED):
                    given = {stats[one.metadata_id]: one for one in event.stats}
                    size = _whole(given["requested_bytes"])
                    yield start, kind, _whole(given["addr"]), size, _text(given.get("tf_op"), stats)
                elif marker and kind.rpartition("/")[2].partition(":")[0] == marker:
                    yield start + event.duration_ps, "marker", 0, 0, ""


def _whole(stat: Any) -> int:
    return int(getattr(stat, stat.WhichOneof("value")))


def _text(stat: Any, names: Mapping[int, str]) -> str:
    if stat is None:
        return ""
    kind = stat.WhichOneof("value")
    return names[stat.ref_value] if kind == "ref_value" else str(getattr(stat, kind))
