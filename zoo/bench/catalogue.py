"""The tables of `zoo bench`, as data: each predecessor's, in a quick form and in one of the published sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from zoo.bench import published
from zoo.bench.largest import Axis, LargestWork
from zoo.bench.published import NOTHING, Published
from zoo.bench.steps import StepCase, StepNetwork, StepWork
from zoo.bench.table import Bench
from zoo.bench.training import TrainingWork

GIB, MIB = 2**30, 2**20
PLAIN = StepCase("plain")
EFFICIENT = StepCase("efficient", MappingProxyType({"efficient": True}))
KEEP_BOTTLENECK = StepCase("efficient, keep_bottleneck", MappingProxyType({"efficient": True, "keep_bottleneck": True}))
LEVELS = ("L0", "L1", "L2", "L3", "L3.1", "L4", "L5")
OF_PLAIN = ("peak_ratio", "published_mb_ratio")
COMPARE_RATIOS = "published figures are from other machines and counted otherwise: compare ratios to plain, not MB or s"


def case(name: str, said: Published = NOTHING, processes: int = 1, **flags: Any) -> StepCase:
    """A way to keep, by its memory flags."""
    return StepCase(name, MappingProxyType(flags), said, processes)


def _luatorch(timed: int, rounds: int) -> StepWork:
    cases = [
        case(f"opt_memory {level}" + (" (plain)" if level == 0 else ""), said, opt_memory=level)
        for level, said in enumerate(published.LUATORCH)
    ]
    network = StepNetwork("densenet_bc_100_12", (64, 3, 32, 32), (timed, 3, 32, 32), (*cases, EFFICIENT))
    return StepWork((network,), rounds)


def _efficient_densenet_pytorch(batch: int, rounds: int, processes: int = 2) -> StepWork:
    said = published.EFFICIENT_DENSENET_PYTORCH
    cases = (
        case("naive", said["naive"]),
        case("efficient", said["efficient"], efficient=True),
        KEEP_BOTTLENECK,
        case(f"naive, {processes} processes", processes=processes),
        case(f"efficient, {processes} processes", processes=processes, efficient=True),
    )
    shape = (batch, 3, 32, 32)
    return StepWork((StepNetwork("densenet_bc_100_12", shape, shape, cases),), rounds)


def _caffe(timed: int, rounds: int) -> StepWork:
    cases = (PLAIN, KEEP_BOTTLENECK, case("efficient", published.CAFFE, efficient=True))
    return StepWork((StepNetwork("densenet_40_12", (64, 3, 32, 32), (timed, 3, 32, 32), cases),), rounds)


def _batch_growth(model: str, line: tuple[int, int]) -> LargestWork:
    axis = Axis("batch", model, 0, 32, layers=(), published=published.EFFICIENT_DENSENET_TENSORFLOW)
    return LargestWork((axis,), (PLAIN, EFFICIENT), 12 * GIB, line)


def _memonger(lstm_steps: int, timed: bool, ntrial: int, rounds: int) -> StepWork:
    networks = []
    for name in ("resnet50", "densenet201", "mobilenet_v2"):
        before, after = published.MEMONGER[name]
        cases = (case("plain", before), case("efficient (search_plan)", after, efficient=True))
        networks.append(StepNetwork(name, (32, 3, 224, 224), (4, 3, 224, 224) if timed else None, cases))
    before, after = published.MEMONGER["lstm"] if lstm_steps == 200 else (NOTHING, NOTHING)
    cases = (case("plain", before), case("efficient (search_plan)", after, efficient=True))
    fields = MappingProxyType({"hidden_size": 512, "num_layers": 4})
    shape = (64, 1, lstm_steps, 28)
    title = f"LSTM 4x512, {lstm_steps} steps"
    networks.append(StepNetwork("lstm_row_mnist", shape, shape if timed else None, cases, fields, title))
    return StepWork(tuple(networks), rounds, ntrial)


def _levels(model: str, names: Sequence[str], batch: int, timed: tuple[int, ...] | None) -> StepNetwork:
    cases = tuple(
        case(
            f"{name} (plain)" if name == "L0" else name,
            published.ACTNN_2_BITS if name == "L3" else NOTHING,
            compressed=name,
        )
        for name in names
    )
    return StepNetwork(model, (batch, 3, 224, 224), timed, cases)


def _actnn(quick: bool) -> StepWork:
    small, large = (4, 3, 64, 64), (8, 3, 224, 224)
    others = ("resnet152", "wide_resnet101_2", "densenet201")
    if quick:
        rest = [_levels(name, ("L0", "L3"), 32, None) for name in others]
        return StepWork((_levels("resnet50", LEVELS, 32, small), *rest), rounds=2)
    return StepWork(tuple(_levels(name, LEVELS, 32, large) for name in ("resnet50", *others)), rounds=3)


def _gact(timed: tuple[int, ...], rounds: int) -> StepWork:
    said = published.GACT
    cases = (
        case("plain", said["plain"]),
        case("gact (4 bits)", said["gact"], compressed="gact"),
        case("gact:2", compressed="gact:2"),
        case("efficient, compressed 2", efficient=True, compressed=2),
    )
    return StepWork((StepNetwork("resnet50", (64, 3, 224, 224), timed, cases),), rounds)


WAYS_TO_FIT = (
    PLAIN,
    EFFICIENT,
    case("L3", compressed="L3"),
    case("efficient, compressed 2", efficient=True, compressed=2),
)
ACTNN_BATCH = MappingProxyType({"L3": Published(words=published.ACTNN_BATCH)})


def _largest(model: str, batch: int, pixels: int, layers: tuple[int, ...], memory_bytes: int) -> LargestWork:
    axes = (
        Axis("batch", model, batch, pixels, layers=layers, published=ACTNN_BATCH),
        Axis("image size", model, batch, pixels, least=pixels // 2, layers=layers),
        Axis("depth", model, batch, pixels, least=1, layers=layers),
        Axis("width", model, batch, pixels, least=4, layers=layers),
    )
    return LargestWork(axes, WAYS_TO_FIT, memory_bytes)


def _acgc(whole: bool) -> TrainingWork:
    cases = tuple(
        case(name, said) if name == "baseline" else case(name, said, compressed=name)
        for name, said in published.ACGC.items()
    )
    if whole:
        return TrainingWork("resnet50", "cifar10", cases, n_epochs=300, seeds=1, saved=True)
    small = MappingProxyType({"layers": (1, 1, 1)})
    return TrainingWork("resnet20", "mnist5k", cases, n_epochs=4, seeds=1, most_images=1024, overrides=small)


def _benches() -> Mapping[str, Bench]:
    found = (
        Bench(
            "luatorch",
            "LuaTorch DenseNet's five levels, -optMemory 0 to 4",
            "torch",
            _luatorch(timed=8, rounds=3),
            _luatorch(timed=64, rounds=5),
            ("1 minute", "5 minutes"),
            OF_PLAIN,
            "memory of a step, of plain",
            (COMPARE_RATIOS,),
        ),
        Bench(
            "efficient_densenet_pytorch",
            "efficient_densenet_pytorch's naive, efficient and several processes",
            "torch",
            _efficient_densenet_pytorch(batch=8, rounds=3),
            _efficient_densenet_pytorch(batch=64, rounds=5),
            ("1 minute", "6 minutes"),
            OF_PLAIN,
            "memory of a step, of plain",
            (COMPARE_RATIOS, "rows of several processes: what the first holds, with its share of the batch"),
        ),
        Bench(
            "caffe",
            "Caffe DenseNet with shared buffers, L=40, k=12, no bottlenecks",
            "torch",
            _caffe(timed=8, rounds=3),
            _caffe(timed=64, rounds=5),
            ("half a minute", "3 minutes"),
            OF_PLAIN,
            "memory of a step, of plain",
            (COMPARE_RATIOS,),
        ),
        Bench(
            "efficient_densenet_tensorflow",
            "efficient_densenet_tensorflow's batch growth in 12 GB",
            "tensorflow",
            _batch_growth("densenet_bc_40_12", (8, 16)),
            _batch_growth("densenet_bc_100_12", (16, 32)),
            ("1 minute", "5 minutes"),
            ("growth", "published_growth"),
            "largest batch, of plain's",
            ("published in float16, measured in float32: compare the growth, not the batches",),
        ),
        Bench(
            "memonger",
            "mxnet-memonger's ResNet, DenseNet, MobileNetV2 and LSTM",
            "mxnet",
            _memonger(lstm_steps=50, timed=False, ntrial=0, rounds=1),
            _memonger(lstm_steps=200, timed=True, ntrial=6, rounds=2),
            ("2 minutes", "15 minutes"),
            OF_PLAIN,
            "memory of a step, of plain",
            (
                "published MB are MXNet 1.9.1's own plan for the original's example networks with its search; measured "
                "peaks are of this zoo's networks, and the parameters' gradients are in them",
                "the quick form takes the best plan that search_plan finds without its search (ntrial 0); plans get "
                "better with the time they are given, and a busy machine gives less",
            ),
        ),
        Bench(
            "actnn",
            "ActNN's levels L0 to L5 on ResNet-50, ResNet-152, Wide ResNet-101-2 and DenseNet-201",
            "torch",
            _actnn(quick=True),
            _actnn(quick=False),
            ("4 minutes", "1 hour"),
            ("saved_ratio", "published_saved_ratio"),
            "saved bytes, of plain",
            (
                "L3's bits before it has learnt which layers need more; on a CPU, L4 and L5 keep what L3 keeps, since "
                "codes are in host memory already",
            ),
        ),
        Bench(
            "gact",
            "GACT on ResNet-50, batch 64",
            "torch",
            _gact((2, 3, 64, 64), rounds=3),
            _gact((8, 3, 224, 224), rounds=3),
            ("1 minute", "6 minutes"),
            OF_PLAIN,
            "memory of a step, of plain",
            (COMPARE_RATIOS,),
        ),
        Bench(
            "largest",
            "ActNN's and GACT's largest batch, image, depth and width in a given memory",
            "torch",
            _largest("resnet20", batch=48, pixels=32, layers=(3, 3, 3), memory_bytes=48 * MIB),
            _largest("resnet50", batch=16, pixels=224, layers=(3, 4, 6, 3), memory_bytes=4 * GIB),
            ("5 minutes", "20 minutes"),
            ("growth", "published_growth"),
            "largest that fits, of plain's",
            ("depth: blocks of each stage; width: channels of the first stage",),
        ),
        Bench(
            "acgc",
            "AC-GC's five configurations: accuracy and average bits",
            "torch",
            _acgc(whole=False),
            _acgc(whole=True),
            ("2 minutes", "days on a CPU: CIFAR-10, ResNet-50, 300 epochs; a stopped table goes on"),
            ("accuracy", "published_accuracy"),
            "test accuracy, %",
            (
                "published: CIFAR-10, ResNet-50, 300 epochs; the quick form learns handwritten digits for a moment, "
                "and its accuracies differ by chance",
                published.ACGC_TIME,
            ),
        ),
    )
    return MappingProxyType({bench.name: bench for bench in found})


BENCHES = _benches()
