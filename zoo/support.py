"""What each family takes in each framework, found by building and measuring it: the page docs/support.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType
from typing import Any

from zoo import frameworks
from zoo.densenet import DenseNetConfig
from zoo.lstm import LSTMConfig
from zoo.mobilenet_v2 import MobileNetV2Config
from zoo.planning import plan
from zoo.policy import MemoryPolicy
from zoo.resnet import ResNetConfig
from zoo.support_modes import MODES

HEAD = """\
# What works where

Made by `python -m zoo support --save docs/support.md`, which builds a small network of every family with every flag and
measures what a training step keeps: "yes" is a flag that is taken and, but for plain, keeps at least {least:.0%} less.
Tests compare this page with what is found, and see to it that the tests named here exist.

"""
LEAST_SAVED = 0.1  # of plain's saved bytes: what saves less is called a gap
YES = "yes"
TITLES: Mapping[str, str] = MappingProxyType({"torch": "PyTorch", "tensorflow": "TensorFlow", "mxnet": "MXNet"})


@dataclass(frozen=True)
class Small:
    """A small network of a family, and the shape of a batch (N, C, H, W)."""

    config: Any
    shape: tuple[int, ...]


FAMILIES: Mapping[str, Small] = MappingProxyType(
    {
        "densenet": Small(DenseNetConfig(growth_rate=4, block_config=(2, 2), num_init_features=8), (16, 3, 32, 32)),
        "resnet": Small(ResNetConfig(block="bottleneck", layers=(1, 1), width=8), (16, 3, 32, 32)),
        "mobilenet_v2": Small(MobileNetV2Config(width_mult=0.1), (16, 3, 64, 64)),
        "lstm": Small(LSTMConfig(input_size=8, hidden_size=512), (128, 1, 8, 8)),
    }
)
FLAGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "plain": {},
        "efficient": {"efficient": True},
        "efficient, keep_bottleneck": {"efficient": True, "keep_bottleneck": True},
        "opt_memory 3": {"opt_memory": 3},
        "compressed 2": {"compressed": 2},
        "efficient, compressed 2": {"efficient": True, "compressed": 2},
        "compressed L3": {"compressed": "L3"},
        "compressed gact:4": {"compressed": "gact:4"},
        "compressed autoquantz": {"compressed": "autoquantz"},
    }
)


def why_not(framework: str, family: str, flags: Mapping[str, Any], measured: bool = True) -> str | None:
    """Why a family does not take memory flags in a framework; None where it does.

    Args:
        framework: one that is installed.
        family: a key of `FAMILIES`.
        flags: of `zoo.policy.MemoryPolicy`.
        measured: also count what a step keeps: flags that save nothing are refused too. Otherwise it is only built.

    Raises:
        ValueError, ImportError: no such framework; it is not installed.

    Example:
        >>> why_not("torch", "lstm", {"efficient": True, "keep_bottleneck": True})
        'an LSTM has no bottlenecks'
    """
    package, small = frameworks.load(framework), FAMILIES[family]

    def build(asked: Mapping[str, Any]) -> Any:
        policy = MemoryPolicy(**asked)
        small.config.check_policy(policy)
        return package.build_model(small.config, policy)

    def saved(model: Any) -> int:
        return int(package.measure_step(model, small.shape, repeats=0).saved_bytes)

    try:
        model = build(flags)
    except ValueError as error:
        return _in_short(error)
    if not measured:
        return None
    try:
        found = saved(model)
    except (ValueError, TypeError, RuntimeError) as error:
        return f"not refused, but a step fails with {type(error).__name__}"
    if flags and found > (1 - LEAST_SAVED) * saved(build({})):
        return f"saves less than {LEAST_SAVED:.0%} of what the plain network keeps"
    return None


def _in_short(error: Exception) -> str:
    """What an error says, without what came, and without what to do instead: the table shows that."""
    _, _, words = str(error).partition("\n")[0].partition(": ")
    return (words or str(error)).partition(";")[0]


def _why_no_plan(package: ModuleType, framework: str, small: Small, measured: bool) -> str | None:
    if not hasattr(package, "make_plan"):
        return f"{TITLES[framework]} carries no plans of this kind out yet"
    if not measured:
        return None
    model = package.build_model(small.config, MemoryPolicy())
    try:
        plan(model, small.shape, budget="8GiB", times="counted", framework=framework).apply(model)
    except (ValueError, TypeError) as error:
        return _in_short(error)
    return None


def _why_no_maps(package: ModuleType, framework: str, small: Small, measured: bool) -> str | None:
    if not hasattr(package, "feature_extractor"):
        return f"{TITLES[framework]} has no feature maps yet"
    try:
        package.feature_extractor(package.build_model(small.config, MemoryPolicy()))
    except ValueError as error:
        return _in_short(error)
    return None


def _why_no_switch(package: ModuleType, framework: str, small: Small, measured: bool) -> str | None:
    model = package.build_model(small.config, MemoryPolicy())
    return None if hasattr(model, "set_grad_checkpointing") else f"{TITLES[framework]}'s models have no such switch"


OTHERS: Mapping[str, Callable[[ModuleType, str, Small, bool], str | None]] = MappingProxyType(
    {"budget": _why_no_plan, "feature maps": _why_no_maps, "gradient checkpointing": _why_no_switch}
)


def gaps(framework: str, measured: bool = True) -> dict[tuple[str, str], str | None]:
    """By (column, family) why it is not there, None where it is."""
    package = frameworks.load(framework)
    found = {
        (column, family): why_not(framework, family, flags, measured)
        for column, flags in FLAGS.items()
        for family in FAMILIES
    }
    found |= {
        (column, family): why(package, framework, small, measured)
        for column, why in OTHERS.items()
        for family, small in FAMILIES.items()
    }
    return found


def page(framework: str | None = None) -> str:
    """The whole page, or one framework's part of it. A framework that is not installed is left out, with a word on it.

    Raises:
        ValueError, ImportError: no such framework; the one asked for is not installed.
    """
    if framework is not None:
        return section(framework)
    missing = {name: frameworks.why_missing(row) for name, row in frameworks.FRAMEWORKS.items()}
    sections = [section(name) if why is None else f"## {TITLES[name]}\n\n{why}\n" for name, why in missing.items()]
    return HEAD.format(least=LEAST_SAVED) + "\n".join(sections)


def section(framework: str, measured: bool = True) -> str:
    """The part of the page about one framework, in Markdown.

    Raises:
        ValueError, ImportError: no such framework; it is not installed.
    """
    found = gaps(framework, measured)
    reasons = list(dict.fromkeys(reason for reason in found.values() if reason is not None))
    lines = [f"## {TITLES[framework]}", "", f"| | {' | '.join(FAMILIES)} |", "|---" * (len(FAMILIES) + 1) + "|"]
    for column in (*FLAGS, *OTHERS):
        row = [found[column, family] for family in FAMILIES]
        cells = [YES if reason is None else f"no ({reasons.index(reason) + 1})" for reason in row]
        lines.append(f"| {column} | {' | '.join(cells)} |")
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))]
    lines += ["", "| mode | what holds with `efficient` | shown by |", "|---|---|---|"]
    lines += [f"| {mode.name} | {mode.holds} | {_link(mode.test)} |" for mode in MODES[framework]]
    return "\n".join(lines) + "\n"


def _link(test: str) -> str:
    return f"`{test.rpartition('::')[2]}` in `{test.partition('::')[0]}`" if test else "-"
