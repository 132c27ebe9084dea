"""What is on its way past a part: values that lie there though no part needs them again, and gradients that wait."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pytorch_models.planning.parts import FoundPart
from pytorch_models.planning.trace import Call, Trace, storage_of
from zoo.planner import Part


def with_passing(listed: Sequence[Part], found: Trace, parts: Sequence[FoundPart]) -> list[Part]:
    """The parts, told how long their outputs lie there in the forward pass, and what gradients wait while they run."""
    return [
        replace(_with_gradients(part, waiting), held_until=until)
        for part, waiting, until in zip(listed, waiting_gradients(found, parts), held_until(found, parts), strict=True)
    ]


def held_until(found: Trace, parts: Sequence[FoundPart]) -> list[int]:
    """For each part, the last part that reads its output, or that runs in a container which was called with it."""
    spans, gives, last = _spans(found, parts), _outputs(found, parts), []
    for place, own in enumerate(gives):
        # What an operator in place hands on is the next part's.
        keys = own - set().union(*gives[place + 1 :])
        reads = [number for key in keys for number in found.read.get(key, ())]
        held = place
        for later in range(place + 1, len(parts)):
            start, end = spans[later]
            read = any(start <= number < end for number in reads)
            call = parts[later].call
            inside = call is not None and any(
                keys & {storage_of(tensor) for tensor in outer.inputs} for outer in _containers(call)
            )
            held = later if read or inside else held
        last.append(held)
    return last


def waiting_gradients(found: Trace, parts: Sequence[FoundPart]) -> list[int]:
    """For each part, bytes of the gradients of values that it neither reads nor makes, and that a later part reads."""
    sizes = {storage._cdata: storage.nbytes() for storage in found.alive}
    sums = []
    for part, (start, end) in zip(parts, _spans(found, parts), strict=True):
        own = {storage_of(tensor) for tensor in part.call.inputs} if part.call is not None else set()
        before = [key for key, born in found.born.items() if born < start and key not in own]
        sums.append(sum(sizes.get(key, 0) for key in before if max(found.read.get(key, (-1,))) >= end))
    return sums


def _with_gradients(part: Part, waiting: int) -> Part:
    if not waiting:
        return part
    options = (replace(option, backward_bytes=option.backward_bytes + waiting) for option in part.options)
    return replace(part, options=tuple(options))


def _containers(call: Call) -> Iterator[Call]:
    """The calls inside which a call ran, but for the model's own: Python holds their arguments until they return."""
    outer = call.parent
    while outer is not None and outer.parent is not None:
        yield outer
        outer = outer.parent


def _outputs(found: Trace, parts: Sequence[FoundPart]) -> list[set[int]]:
    """The storages that each part gives."""
    listed: list[set[int]] = []
    for place, (part, (start, end)) in enumerate(zip(parts, _spans(found, parts), strict=True)):
        if part.call is not None:
            listed.append({storage_of(tensor) for tensor in part.call.outputs})
            continue
        after = parts[place + 1].call if place + 1 < len(parts) else None
        read = after.inputs if after is not None else found.root.outputs
        keys = {storage_of(tensor) for tensor in read}
        listed.append({key for key in keys if start <= found.born.get(key, -1) < end})
    return listed


def _spans(found: Trace, parts: Sequence[FoundPart]) -> list[tuple[int, int]]:
    """Numbers of each part's first operator and of the first after it."""
    calls = [part.call for part in parts]
    spans = []
    for place, call in enumerate(calls):
        if call is not None:
            spans.append((call.start, call.end))
            continue
        before, after = calls[place - 1] if place else None, calls[place + 1] if place + 1 < len(calls) else None
        start = found.root.start if before is None else before.end
        spans.append((start, found.root.end if after is None else after.start))
    return spans
