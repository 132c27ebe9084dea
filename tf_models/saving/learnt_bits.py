"""Bits that follow from what backward passes tell: measured in a few steps, settled between steps, fixed within one.

How many bytes are kept is part of a graph: other bits make another graph. They are settled after the first step (which
is exact where bits follow from an error bound), the eleventh, the 101st and every 1000th, so that few graphs are made.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tf_models.saving.forms import AsIs, FixedForm, Form, GroupForm
from tf_models.tensorflow_names import tf
from zoo import bits as bit_rules
from zoo.fixed_widths import published_widths, widths_for_step
from zoo.schemes import Scheme

MEASURED, EVERY = (0, 10, 100), 1000
FEWEST, MOST = 2, 16  # of fixed point


@dataclass(frozen=True)
class Place:
    """Where one tensor is kept in every step.

    Args:
        number: among all of the model.
        is_norm: a norm's input; else what a convolution reads.
        count: values a sample.
    """

    number: int
    is_norm: bool
    count: int


class LearntBits:
    """Of one model, and of nothing else.

    Args:
        scheme: with bits that are learnt.
        most: more tensors than the model keeps.
        norms: of the model.

    Attributes:
        bits: of tensors, by their number.
        found: what was measured and is not settled yet.
    """

    def __init__(self, scheme: Scheme, most: int, norms: int) -> None:
        self.scheme, self.norms = scheme, max(norms, 1)
        self.places: dict[tuple[int, int], Place] = {}
        self.bits: dict[int, int] = {}
        self.steps, self.is_in_step = 0, False
        self._graphs: dict[tuple[tuple[int, int], ...], int] = {}
        with tf.init_scope():
            self.found = tf.Variable(tf.zeros([most]), trainable=False, name="needs_of_bits")
            self._measures = tf.Variable(False, trainable=False, name="measures_bits")

    @contextlib.contextmanager
    def step(self, even_out: Callable[[Sequence[Any]], None] | None = None) -> Iterator[int]:
        """One training step; what comes is a number that is another one for other bits, and so for another graph.

        Args:
            even_out: gives variables the mean over all processes that train together, which then have the same bits.

        Raises:
            ValueError: under a strategy of several replicas, each of which would learn other bits.
        """
        if tf.distribute.get_strategy().num_replicas_in_sync > 1:
            raise ValueError(
                f"compressed={self.scheme} under a strategy of several replicas: each would learn other bits; give a "
                "fixed number of bits, such as compressed=2 or quant8"
            )
        self._begin(even_out)
        self.is_in_step = True
        try:
            yield self._graphs.setdefault(tuple(sorted(self.bits.items())), len(self._graphs))
        finally:
            self.is_in_step = False

    def enter_forward(self) -> None:
        """A forward pass in training begins: outside of `step`, eagerly, that is a step by itself.

        Raises:
            ValueError: in a graph that no `step` drives, whose bits would never change.
        """
        if self.is_in_step:
            return
        if not tf.executing_eagerly():
            raise ValueError(
                f"compressed={self.scheme} in a tf.function of your own: bits change between steps, and a graph that "
                "is made once would keep the first ones; train with fit or tf_models.train, or run each step inside "
                "`with model.learnt_bits.step() as graph:` and give `graph` to the function as a Python integer"
            )
        self._begin()

    def place(self, key: tuple[int, int], is_norm: bool, static: Any) -> Place:
        """The place of a tensor of the forward pass, by its part and its number in that."""
        if key not in self.places:
            self.places[key] = Place(len(self.places), is_norm, math.prod(static.as_list()[1:]))
        return self.places[key]

    def form(self, place: Place) -> Form:
        """What a tensor is kept in, in the next step."""
        scheme, bits = self.scheme, self.bits.get(place.number)
        if scheme.error is None:
            return GroupForm(bits or int(scheme.bits or 1))
        return AsIs() if bits is None else FixedForm(bits, scheme.stochastic, scheme.zeros and not place.is_norm)

    def learn(self, places: Sequence[tuple[Place, int]], needs: Callable[[], Any]) -> None:
        """In a backward pass, of a step that measures.

        Args:
            places: of tensors that lie side by side along the channels, and how many channels each has.
            needs: what is learnt of those channels, see `bounds`.
        """

        def write() -> Any:
            parts = tf.split(needs(), [channels for _, channels in places])
            adds = self.scheme.error is None
            found = tf.stack([tf.reduce_sum(one) if adds else tf.reduce_max(one) for one in parts])
            found = tf.where(tf.math.is_finite(found), found, 0.0)  # of a step that a loss scaler will skip
            numbers = [place.number for place, _ in places]
            known = tf.gather(self.found, numbers)
            both = known + found if adds else tf.maximum(known, found)
            self.found.scatter_update(tf.IndexedSlices(both, numbers))
            return tf.constant(0)

        tf.cond(self._measures, write, lambda: tf.constant(0))

    def arrays(self) -> dict[str, np.ndarray]:
        """What was learnt, for a checkpoint."""
        numbers = sorted(self.bits)
        bits = np.array([[number, self.bits[number]] for number in numbers], np.int64).reshape(-1, 2)
        places = [[*key, place.number, place.is_norm, place.count] for key, place in self.places.items()]
        return {
            "bits": bits,
            "places": np.array(places, np.int64).reshape(-1, 5),
            "steps": np.array([self.steps], np.int64),
            "found": self.found.numpy(),
        }

    def set_arrays(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Go on from what `arrays` gave."""
        self.bits = {int(number): int(bits) for number, bits in arrays["bits"]}
        rows = [[int(one) for one in row] for row in arrays["places"]]
        self.places = {(part, own): Place(number, bool(norm), count) for part, own, number, norm, count in rows}
        self.steps = int(arrays["steps"][0])
        self.found.assign(arrays["found"])

    def _begin(self, even_out: Callable[[Sequence[Any]], None] | None = None) -> None:
        if self.steps and _is_measured(self.steps - 1):
            if even_out is not None:
                even_out([self.found])
            self._settle(self.found.numpy())
            self.found.assign(tf.zeros_like(self.found))
        self._measures.assign(_is_measured(self.steps))
        self.steps += 1

    def _settle(self, found: np.ndarray) -> None:
        """Bits from what was measured; a tensor of which nothing was learnt keeps its own."""
        known = [place for place in self.places.values() if found[place.number] > 0]
        needs = np.array([found[place.number] for place in known])
        if not known:
            return
        if self.scheme.error is None:
            average = int(self.scheme.bits or 1)
            least = [average if place.is_norm else 1 for place in known]
            bits = bit_rules.allocate(needs, [float(place.count) for place in known], average, least=least)
        elif self.scheme.stochastic:
            bits = widths_for_step(1 / np.sqrt(needs), np.ones_like(needs), signed=True).clip(FEWEST, MOST)
        else:
            bits = published_widths(1 / needs, np.ones_like(needs), signed=True).clip(FEWEST, MOST)
        self.bits |= {place.number: int(one) for place, one in zip(known, bits, strict=True)}


class FitWithLearntBits:
    """What Keras's `fit` calls for a step, in the graph that belongs to the bits.

    Args:
        learnt: see there.
        make: a new graph.
    """

    def __init__(self, learnt: LearntBits, make: Callable[[], Callable[..., Any]]) -> None:
        self.learnt, self.make = learnt, make
        self.graphs: dict[int, Callable[..., Any]] = {}

    def __call__(self, *given: Any) -> Any:
        """One step."""
        with self.learnt.step() as graph:
            if graph not in self.graphs:
                self.graphs[graph] = self.make()
            return self.graphs[graph](*given)


def _is_measured(step: int) -> bool:
    return step in MEASURED or step % EVERY == 0
