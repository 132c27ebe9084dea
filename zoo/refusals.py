"""What each framework does not offer of flags that are sound in themselves: one table, read without any framework.

The training command looks here before it reads data or imports a framework; a framework's package looks here too, so
that a library's user is told the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from zoo.launch import HOROVOD, MXNET, TENSORFLOW, TORCHRUN, Launch
from zoo.lstm import LSTMConfig
from zoo.options import RefusedOptionError, TrainingOptions
from zoo.policy import MemoryPolicy, PolicyNotOfferedError


@dataclass(frozen=True)
class Request:
    """What is asked of a framework; what is left out is not asked.

    Args:
        config: of the network.
        policy: what it keeps.
        options: how it is trained.
        budget: of a step's bytes.
        launch: who started this process.
    """

    config: Any = None
    policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    options: TrainingOptions | None = None
    budget: int | float | str | None = None
    launch: Launch = field(default_factory=Launch)

    @property
    def is_lstm(self) -> bool:
        """Whether the network is of that family."""
        return isinstance(self.config, LSTMConfig)

    def value(self, flag: str) -> object:
        """What was given for a flag.

        Example:
            >>> Request(budget="1GiB").value("budget"), Request().value("amp")
            ('1GiB', False)
        """
        for holder in (self, self.options or TrainingOptions(), self.policy):
            if hasattr(holder, flag):
                return getattr(holder, flag)
        raise KeyError(flag)


@dataclass(frozen=True)
class Refusal:
    """One thing that a framework does not offer.

    Args:
        flag: its name; empty for what is no flag.
        applies: whether it is asked for.
        words: why not, and what to do.
    """

    flag: str
    applies: Callable[[Request], bool]
    words: str


def _given(flag: str) -> Callable[[Request], bool]:
    return lambda asked: bool(asked.value(flag))


_CUDA_GRAPHS = Refusal("cuda_graphs", _given("cuda_graphs"), "CUDA graphs are PyTorch's; use framework=torch")
_SYNC_BATCHNORM = Refusal(
    "sync_batchnorm",
    _given("sync_batchnorm"),
    "norms over several processes are PyTorch's; use framework=torch, or leave it out",
)
_HOROVOD = Refusal("horovod", _given("horovod"), "Horovod is TensorFlow's here; use framework=tensorflow")


def _started_by(*launchers: str) -> Callable[[Request], bool]:
    return lambda asked: asked.launch.by in launchers


_FEW_INPUTS = Refusal(
    "batch_size",
    lambda asked: asked.options is not None and asked.options.batch_size < asked.launch.world,
    "less than one input for each of the processes",
)
_LEVELS = "the classic levels are of PyTorch's DenseNet; give efficient=True (least memory) or "
_LEVELS += "efficient=True, keep_bottleneck=True (less work)"

REFUSALS: Mapping[str, tuple[Refusal, ...]] = MappingProxyType(
    {
        "torch": (
            Refusal("fp16", _given("fp16"), "PyTorch chooses the type: amp=True is float16 on a GPU without bfloat16"),
            _HOROVOD,
            Refusal(
                "",
                _started_by(TENSORFLOW, HOROVOD),
                "this process has a launcher that PyTorch knows nothing of (TF_CONFIG, or horovodrun): start "
                "PyTorch's processes with torchrun --nproc-per-node 2 demo.py ...",
            ),
        ),
        "tensorflow": (
            Refusal("opt_memory", _given("opt_memory"), _LEVELS),
            _CUDA_GRAPHS,
            _SYNC_BATCHNORM,
            Refusal(
                "compressed",
                lambda asked: asked.launch.world > 1 and asked.policy.scheme is not None and asked.policy.scheme.learns,
                "several processes would each learn other bits; give fixed ones, such as compressed=2 or quant8",
            ),
            Refusal(
                "",
                _started_by(TORCHRUN, MXNET),
                "this process has a launcher that TensorFlow knows nothing of (torchrun): start TensorFlow's "
                "processes with python -m tf_models.launch --workers 2 demo.py --framework tensorflow ...",
            ),
            Refusal(
                "",
                lambda asked: asked.launch.by == HOROVOD and asked.options is not None and not asked.options.horovod,
                "horovodrun has started this process: give --horovod True",
            ),
            Refusal(
                "horovod",
                lambda asked: asked.launch.by == TENSORFLOW and bool(asked.value("horovod")),
                "TF_CONFIG joins these processes by TensorFlow itself: start them with horovodrun, or leave it out",
            ),
            _FEW_INPUTS,
        ),
        "mxnet": (
            Refusal("opt_memory", _given("opt_memory"), _LEVELS),
            Refusal(
                "compressed",
                lambda asked: asked.is_lstm and asked.policy.compressed is not None,
                "an LSTM keeps no codes in MXNet; give efficient=True",
            ),
            Refusal(
                "compressed",
                lambda asked: asked.policy.scheme is not None or asked.policy.adapts,
                "MXNet has no schemes; give 1, 2, 4, 8, fixed:2 to fixed:16, half or bfloat16",
            ),
            Refusal(
                "budget",
                lambda asked: asked.is_lstm and asked.budget is not None,
                "the time steps of an LSTM are no blocks: give efficient=True, or "
                "memonger.search_plan(..., budget=...)",
            ),
            Refusal(
                "amp", _given("amp"), "mixed precision is not offered in MXNet; use framework=torch, or leave it out"
            ),
            Refusal(
                "fp16", _given("fp16"), "float16 is not offered in MXNet; use framework=tensorflow, or leave it out"
            ),
            _HOROVOD,
            Refusal("tensorboard", _given("tensorboard"), "not offered in MXNet: metrics.csv holds the same numbers"),
            _CUDA_GRAPHS,
            _SYNC_BATCHNORM,
            Refusal(
                "",
                _started_by(TORCHRUN, TENSORFLOW, HOROVOD),
                "this process has a launcher that MXNet knows nothing of (torchrun): start MXNet's processes with "
                "python -m mxnet_memonger.launch --workers 2 demo.py --framework mxnet ...",
            ),
            _FEW_INPUTS,
        ),
    }
)


def check_offered(framework: str, asked: Request) -> None:
    """Refuse what a framework does not offer, before any work.

    Raises:
        PolicyNotOfferedError: a flag of memory, which a comparison leaves out.
        RefusedOptionError: any other.

    Example:
        >>> check_offered("mxnet", Request(policy=MemoryPolicy(opt_memory=3)))
        Traceback (most recent call last):
        ...
        zoo.policy.PolicyNotOfferedError: opt_memory=3: the classic levels are of PyTorch's DenseNet; ...
    """
    for refusal in REFUSALS[framework]:
        if not refusal.applies(asked):
            continue
        if not refusal.flag:
            raise RefusedOptionError(refusal.words)
        error = PolicyNotOfferedError if hasattr(asked.policy, refusal.flag) else RefusedOptionError
        raise error(f"{refusal.flag}={asked.value(refusal.flag)}: {refusal.words}")
