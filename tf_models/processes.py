"""Several processes that train one model: sums over all of them, by TensorFlow's own collectives or by Horovod."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from tf_models.devices import tensorflow_device
from tf_models.tensorflow_names import tf
from zoo.launch import Launch
from zoo.options import RefusedOptionError, TrainingOptions
from zoo.refusals import Request, check_offered


class Workers:
    """This process among those that train together; alone, the only one.

    Args:
        rank: its number.
        world: how many there are.
        add_up_one: adds up a tensor over all processes; all call it alike. None for a single process.

    Example:
        >>> [float(one) for one in Workers().add_up([tf.constant(2.0)])]
        [2.0]
    """

    def __init__(self, rank: int = 0, world: int = 1, add_up_one: Callable[[Any], Any] | None = None) -> None:
        self.rank, self.world, self._add_up_one = rank, world, add_up_one

    def add_up(self, tensors: Sequence[Any]) -> list[Any]:
        """The sum of each over all processes, the same bits in each of them; one message for every dtype."""
        given = [tf.convert_to_tensor(one) for one in tensors]
        if self._add_up_one is None:
            return given
        sums: dict[int, Any] = {}
        for kind in dict.fromkeys(one.dtype for one in given):
            places = [place for place, one in enumerate(given) if one.dtype == kind]
            flat = self._add_up_one(tf.concat([tf.reshape(given[place], [-1]) for place in places], 0))
            parts = tf.split(flat, [int(tf.size(given[place])) for place in places])
            sums |= {place: tf.reshape(part, given[place].shape) for place, part in zip(places, parts, strict=True)}
        return [sums[place] for place in range(len(given))]

    def share(self, variables: Sequence[Any]) -> None:
        """Give variables the first process's values."""
        if self.world > 1:
            values = [tf.convert_to_tensor(one) for one in variables]
            self._assign(variables, self.add_up([one if self.rank == 0 else tf.zeros_like(one) for one in values]))

    def average(self, variables: Sequence[Any]) -> None:
        """Give variables the mean of all processes' values."""
        if self.world > 1:
            self._assign(variables, [one / self.world for one in self.add_up(variables)])

    def wait(self) -> None:
        """Until all processes are here."""
        self.add_up([tf.zeros([1])])

    @staticmethod
    def _assign(variables: Sequence[Any], values: Sequence[Any]) -> None:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def join_workers(options: TrainingOptions) -> Workers:
    """Join the other processes of a launch, for `train`; before anything else is done in TensorFlow, as it demands.

    Args:
        options: `horovod` joins by Horovod what horovodrun started; otherwise TF_CONFIG tells of the others.

    Raises:
        RefusedOptionError: another framework's launcher; several GPUs in one process.
        ImportError: Horovod is not installed.

    Example:
        >>> join_workers(TrainingOptions()).world
        1
    """
    launch = Launch.from_environment()
    check_offered("tensorflow", Request(options=options, launch=launch))
    if options.horovod:
        return _by_horovod(options)
    if not launch.launched:
        return Workers()
    if tensorflow_device(options.device) == "/CPU:0":
        tf.config.set_visible_devices([], "GPU")
    try:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise RefusedOptionError(
            f"{launch.world} processes are joined before anything else is done in TensorFlow: call workers = "
            f"tf_models.join_workers(options), then build the model, then train(..., workers=workers) ({error})"
        ) from error
    own = len(strategy.extended.worker_devices)
    if own != 1:
        raise RefusedOptionError(
            f"{own} GPUs are visible in one of {launch.world} processes: show each its own, by CUDA_VISIBLE_DEVICES"
        )

    def on_replica(vector: Any) -> Any:
        # The copy lies on the replica's device: TensorFlow wants to know one.
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.identity(vector))

    @tf.function(autograph=False)
    def add_up_one(vector: Any) -> Any:
        return strategy.run(on_replica, (vector,))

    return Workers(launch.rank, launch.world, add_up_one)


def _by_horovod(options: TrainingOptions) -> Workers:
    try:
        horovod = importlib.import_module("horovod.tensorflow")
    except ImportError as error:
        raise ImportError(
            f"horovod=True needs Horovod, compiled for TensorFlow: HOROVOD_WITH_TENSORFLOW=1 pip install "
            f"'horovod[tensorflow]'; or leave it out and start the processes with python -m tf_models.launch ({error})"
        ) from error
    horovod.init()
    devices = tf.config.list_physical_devices("GPU")
    if options.device == "cpu":
        devices = []
    if devices or options.device == "cpu":
        tf.config.set_visible_devices(devices[horovod.local_rank() :][:1], "GPU")
    if horovod.size() == 1:
        return Workers()
    return Workers(horovod.rank(), horovod.size(), lambda vector: horovod.allreduce(vector, op=horovod.Sum))
