"""Zeros that depend on a gradient, so that what is computed again is computed after it; second derivatives refused.

Without them grappler and XLA find that the backward pass computes what the forward pass has computed already, and keep
that instead: nothing would be saved. A control dependency holds in graph mode alone; a data dependency holds under XLA
as well. It is put on what is small: a norm's scale, a 1x1 kernel, the index where a slice starts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tf_models.tensorflow_names import is_being_saved, tf

SECOND_DERIVATIVE = (
    "a second derivative through efficient=True or compressed is not offered: build the model without them"
)


def zero_after(*gradients: Any) -> Any:
    """An int32 0 that is known only once all `gradients` are.

    No float is above infinity, and no compiler knows what it is told here.

    Example:
        >>> int(zero_after(tf.constant([float("nan"), 1.0]), tf.constant(2.0)))
        0
    """
    zeros = []
    for gradient in gradients:
        first = tf.reshape(gradient, [-1])[:1]  # of an empty batch, nothing
        zeros.append(tf.reduce_sum(tf.cast(first > tf.constant(float("inf"), first.dtype), tf.int32)))
    return zeros[0] if len(zeros) == 1 else tf.add_n(zeros)


def tied(value: Any, zero: Any) -> Any:
    """The same value, known only once `zero` is."""
    return value + tf.cast(zero, value.dtype)


def opaque(value: Any, zero: Any) -> Any:
    """The same value, known only once `zero` is, and stored: XLA does not look into a branch that the data choose.

    In a graph it costs no copy.
    """
    return tf.cond(zero == 0, lambda: tf.identity(value), lambda: tf.zeros_like(value))


def added_now(total: Any, part: Any) -> Any:
    """total + part, added where it stands.

    XLA would put off a sum of which only some channels are needed next, and keep every part of it until then. It does
    not look into a branch whose condition only the data decide.
    """
    return tf.cond(zero_after(part) == 0, lambda: total + part, lambda: total)


def opaque_tensors(tensors: Sequence[Any], zero: Any) -> list[Any]:
    """As `opaque`, for several at once: XLA keeps them, and not what they are made of."""
    same = tf.cond(
        zero == 0,
        lambda: tuple(tf.identity(one) for one in tensors),
        lambda: tuple(tf.zeros_like(one) for one in tensors),
    )
    return list(same)


def with_gradient(
    forward: Callable[..., tuple[Sequence[Any], Callable[..., Sequence[Any]]]],
    sources: Sequence[Any],
    parameters: Sequence[Any],
) -> list[Any]:
    """Run `forward(*sources, *parameters)`, which gives outputs, and what makes of their gradients all others.

    A second derivative is refused: the backward pass reads what it kept behind TensorFlow's back. Neither the sources
    nor the outputs are held for the backward pass, but what `forward` itself keeps.

    Raises:
        NotImplementedError: when a second derivative is asked for.
    """
    witnesses = [_witness(one) for one in sources]
    returned: list[Any] = []

    @tf.custom_gradient
    def run(*given: Any) -> Any:
        held = given[len(sources) :]
        # Else an eager tape records what runs inside as well, and keeps all of it.
        plain = [tf.stop_gradient(one) for one in given[: len(sources) + len(parameters)]]
        outputs, backward = forward(*plain)

        def gradients(*incoming: Any) -> Any:
            @tf.custom_gradient
            def once(*both: Any) -> Any:
                return tuple(backward(*both[: len(incoming)])), _refusal(both)

            return [*once(*incoming, *held), *(None for _ in witnesses)]

        returned.extend(outputs)
        return returned, gradients

    outputs = list(run(*sources, *parameters, *witnesses))
    if tf.executing_eagerly():
        # An eager tape keeps what `run` returned for its structure alone, and with it every output's memory.
        returned[:] = [tf.zeros([], one.dtype) for one in returned]
    return outputs


@tf.custom_gradient
def _witness(source: Any) -> Any:
    """One value of a source, by which a second derivative finds that there is a way to it; none of an empty one.

    Gathered, because a slice would share the source's memory and keep all of it.
    """
    values = tf.reshape(tf.stop_gradient(source), [-1])
    return tf.gather(values, tf.range(tf.minimum(tf.size(values), 1))), _refusal([source])


def _refusal(sources: Sequence[Any]) -> Callable[..., list[Any]]:
    """The gradient of what has none.

    A SavedModel holds the gradients of all that it holds, asked for or not: there it fails when it is run.
    """
    known = [] if tf.executing_eagerly() else list(sources)  # an eager tape would keep them

    def refuse(*_: Any) -> list[Any]:
        if not is_being_saved():
            raise NotImplementedError(SECOND_DERIVATIVE)
        with tf.control_dependencies([tf.debugging.Assert(False, [SECOND_DERIVATIVE])]):
            return [tf.zeros_like(one) for one in known]

    return refuse
