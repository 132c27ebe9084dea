"""What a part of a model is told of the forward pass it runs in: what to keep, what noise to draw, what not to move."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from tf_models.compression import forms_of, refuse_under_xla, with_shared_kernels
from tf_models.saving import Coder
from tf_models.saving.forms import Forms
from tf_models.saving.learnt_bits import LearntBits
from tf_models.saving.noise import mixed
from tf_models.tensorflow_names import tf
from zoo.policy import MemoryPolicy

BETWEEN_PARTS = 2**20  # more tensors than one part codes


@dataclass(frozen=True)
class Pass:
    """One forward pass of a model, as one of its parts sees it.

    Args:
        training: whether norms take the batch's statistics.
        policy: what is kept: the model's, or what a plan says of the part.
        noise: seed of the codes' noise, uint64; None = nothing is coded.
        dropout: seed of dropout; None = nothing is dropped.
        moves: whether running statistics move; False where a part runs a second time in this step.
        learnt: bits that change between steps; None = they are fixed.
        shared: whether the shared kernels make the codes.
        in_order: whether convolutions that keep all have their gradients in order too (`convolve`).
        numbers: of the parts that take a coder, one for all that is made from this pass.

    Example:
        >>> run = Pass(True, MemoryPolicy(efficient=True))
        >>> run.saves, run.by(MemoryPolicy()).saves, run.again().moves
        (True, False, False)
    """

    training: bool
    policy: MemoryPolicy
    noise: Any = None
    dropout: Any = None
    moves: bool = True
    learnt: LearntBits | None = None
    shared: bool = False
    in_order: bool = False
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)

    @classmethod
    def of(
        cls,
        training: bool | None,
        policy: MemoryPolicy,
        code_seeds: Any,
        dropout_seeds: Any,
        learnt: LearntBits | None = None,
    ) -> Pass:
        """A new one; codes are made, and values dropped, while training alone.

        Args:
            training, policy: see the class.
            learnt: of the model.
            code_seeds, dropout_seeds: generators, of which each gives one seed a pass; None = there is none.
        """
        if not training:
            return cls(False, policy)
        refuse_under_xla(policy)
        noise = None if code_seeds is None else noise_seed(code_seeds)
        if learnt is not None:
            learnt.enter_forward()
        return cls(True, policy, noise, None if dropout_seeds is None else dropout_seeds.next(), learnt=learnt)

    @property
    def forms(self) -> Forms | None:
        """Of what is kept; None = nothing is coded."""
        if self.noise is None:
            return None
        return with_shared_kernels(self.policy) if self.shared else forms_of(self.policy)

    @property
    def saves(self) -> bool:
        """Whether less is kept than TensorFlow would."""
        return self.policy.efficient or self.forms is not None

    def by(self, policy: MemoryPolicy) -> Pass:
        """The same one for a part that keeps by another policy."""
        return replace(self, policy=policy)

    def again(self) -> Pass:
        """The same one for a part that has run before: it draws the same dropout, and moves no statistics."""
        return replace(self, moves=False)

    def coder(self) -> Coder | None:
        """For the tensors of one more part of the model, none of whose noise is another's; None = nothing is coded."""
        forms = self.forms
        return None if forms is None else Coder(forms, self.noise, next(self.numbers) * BETWEEN_PARTS, self.learnt)


def noise_seed(seeds: Any) -> Any:
    """The next seed of codes' noise, uint64: another one in each replica."""
    state = tf.cast(seeds.next(), tf.uint64)
    replica = tf.distribute.get_replica_context()
    number = 0 if replica is None else replica.replica_id_in_sync_group
    seed = mixed(mixed(state[0]) + mixed(state[1] + tf.constant(1, tf.uint64)))
    return mixed(seed + tf.cast(number, tf.uint64))
