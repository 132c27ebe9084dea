"""Which images make up a step, as NumPy arrays: every draw derives from (seed, epoch, step), for every framework."""

from __future__ import annotations

import numpy as np

from zoo.data.text_data import Data

_SHUFFLE, _AUGMENT, _MODEL = 1, 2, 3


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """A 63-bit seed for what the framework itself draws in one step (dropout), so that a resumed run draws the same."""
    state = np.random.SeedSequence([_MODEL, seed, epoch, step, rank]).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


class TrainingBatches:
    """One epoch of shuffled, augmented, normalised training batches; item `step` can be asked for in any order.

    With several processes each gets every `world`-th image of the same global batch, so that the images and their
    augmentation do not depend on the number of processes. (One exception: a last batch with fewer images than
    processes is left out.)

    Args:
        data: the images.
        indices: which training images take part, int64 (N,).
        batch_size: images per global batch; the last one may be smaller.
        seed, epoch: what the order and the augmentation derive from.
        rank, world: this process and how many there are.
    """

    def __init__(
        self,
        data: Data,
        indices: np.ndarray,
        batch_size: int,
        seed: int,
        epoch: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.data, self.batch_size, self.seed, self.epoch = data, batch_size, seed, epoch
        self.rank, self.world = rank, world
        self.order = np.random.default_rng([_SHUFFLE, seed, epoch]).permutation(indices)

    def __len__(self) -> int:
        full, rest = divmod(len(self.order), self.batch_size)
        # A last batch of one image a process is left out: a norm over 1x1 maps has no variance to take from it.
        return full + (rest >= (2 * self.world if full else self.world))

    def __getitem__(self, step: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Images float32 (n, C, H, W) and labels int64 (n,) of this process, and the size of the global batch."""
        if not 0 <= step < len(self):
            raise IndexError(f"step {step} of {len(self)}")
        chosen = self.order[step * self.batch_size : (step + 1) * self.batch_size]
        rng = np.random.default_rng([_AUGMENT, self.seed, self.epoch, step])
        inputs = self.data.prepare(self.data.train_inputs[chosen], rng)
        mine = slice(self.rank, None, self.world)
        return inputs[mine], self.data.train_labels[chosen[mine]], len(chosen)


class EvaluationBatches:
    """Images in their own order, neither shuffled nor augmented; process `rank` gets every `world`-th batch.

    Args:
        inputs: of `data`'s kind: images uint8 (N, C, H, W), or windows of a text uint16 (N, T).
        labels: int64 (N,), or for a text (N, T).
        data: which prepares them.
        batch_size: images per batch.
        rank, world: this process and how many there are; each image belongs to exactly one.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        data: Data,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.inputs, self.labels, self.data, self.batch_size = inputs, labels, data, batch_size
        self.starts = range(0, len(labels), batch_size)[rank::world]

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray, int]:
        """Images float32 (n, C, H, W), labels int64 (n,), and n."""
        start = self.starts[position]
        part = slice(start, start + self.batch_size)
        labels = self.labels[part]
        return self.data.prepare(self.inputs[part]), labels, len(labels)
