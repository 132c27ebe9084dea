"""Memory in MXNet: plain, the original memonger's search, and this project's, side by side; `--help` says what else.

python benchmarks/mxnet_memory.py                    the table, about ten minutes on two cores
python benchmarks/mxnet_memory.py --frontier         every point between least memory and least work, too
python benchmarks/mxnet_memory.py --only resnet50    networks whose names hold this
python benchmarks/mxnet_memory.py --steps            time and resident memory of real steps on the frontier
python benchmarks/mxnet_memory.py --resident         resident memory of real steps: plain, planned, with codes
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.original_memonger import original_search  # noqa: E402
from mxnet_memonger import build_model, compress, memonger  # noqa: E402
from mxnet_memonger.binding import MIB, VALUE, plan_bytes  # noqa: E402
from mxnet_memonger.numpy_names import mx  # noqa: E402
from zoo.densenet import VARIANTS as DENSENETS  # noqa: E402
from zoo.mobilenet_v2 import VARIANTS as MOBILENETS  # noqa: E402
from zoo.resnet import VARIANTS as RESNETS  # noqa: E402

IMAGES: Mapping[str, tuple[int, ...]] = {"data": (32, 3, 224, 224)}


@dataclass(frozen=True)
class Case:
    """A network, and the figure it is to reach in MiB (0 = 0.75 of the original search's)."""

    name: str
    build: Callable[[], tuple[Any, Mapping[str, Any]]]
    target_mib: int = 0


def example(name: str) -> Any:
    """One of the example scripts, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def marked(sym: Any, stages: tuple[str, ...]) -> Any:
    """The Symbol with `mirror_stage` on every operator of these kinds: the marks that the original needs."""
    internals = sym.get_internals()
    for place, name in enumerate(internals.list_outputs()):
        if any(stage in name for stage in stages):
            internals[place]._set_attr(mirror_stage="True")
    return sym


def clean(variants: Any, name: str, stages: tuple[str, ...]) -> Callable[[], tuple[Any, Mapping[str, Any]]]:
    """A network of this zoo with its loss."""
    return lambda: (marked(build_model(variants[name]).with_loss(), stages), IMAGES)


def leaky_resnet(blocks: list[int]) -> Callable[[], tuple[Any, Mapping[str, Any]]]:
    """The example's ResNet."""
    return lambda: (example("mxnet_resnet_search").network(blocks), IMAGES)


def nested_densenet(blocks: list[int]) -> Callable[[], tuple[Any, Mapping[str, Any]]]:
    """The example's DenseNet, a chain of concatenations."""
    return lambda: (example("mxnet_densenet_search").network(blocks), IMAGES)


def lstm(steps: int) -> Callable[[], tuple[Any, Mapping[str, Any]]]:
    """The example's LSTM, 4 layers of 512."""
    return lambda: example("mxnet_lstm_search").network(steps, layers=4, hidden=512, batch=64)


CASES = (
    Case("example ResNet-50, LeakyReLU", leaky_resnet([3, 4, 6, 3]), 1150),
    Case("example ResNet-152, LeakyReLU", leaky_resnet([3, 8, 36, 3]), 1900),
    Case("example DenseNet-201, nested", nested_densenet([6, 12, 48, 32]), 1750),
    Case("example LSTM 4x512, 200 steps", lstm(200), 280),
    Case("example LSTM 4x512, 400 steps", lstm(400), 400),
    Case("zoo resnet50", clean(RESNETS, "resnet50", ("layer", ".relu_output")), 900),
    Case("zoo resnet152", clean(RESNETS, "resnet152", (".relu_output",))),
    Case("zoo densenet201", clean(DENSENETS, "densenet201", ("concat",)), 1750),
    Case("zoo mobilenet_v2", clean(MOBILENETS, "mobilenet_v2", ("_plus", "conv.3_output")), 800),
)


def row(case: Case, ntrial: int, frontier: bool, workers: int | None) -> str:
    """One line of the table, and the frontier below it."""
    sym, shapes = case.build()
    plain = plan_bytes(sym, None, shapes)
    original = original_search(sym, shapes)
    start = processor_seconds()
    _, info = memonger.search_plan(sym, ntrial, return_info=True, workers=workers, **shapes)
    seconds = processor_seconds() - start
    best = info.chosen
    target = case.target_mib or round(0.75 * original / MIB)
    fewer = plain if info.few_products is None else info.few_products.bytes
    figures = [plain, original, best.bytes, target * MIB, fewer]
    cells = [case.name, *(f"{figure / MIB:.0f}" for figure in figures[:3]), f"{best.bytes / original:.2f}x"]
    cells += [f"{target}", f"{100 * best.recomputed_share:.0f} %", f"{fewer / MIB:.0f}", f"{seconds:.0f}"]
    lines = ["| " + " | ".join(cells) + " |"]
    if frontier:
        lines += [
            f"    {point.bytes / MIB:6.0f} MiB, {100 * point.recomputed_share:3.0f} % of a forward pass done again, "
            f"{100 * point.recomputed_products:3.0f} % of its convolutions and products"
            for point in info.frontier
        ]
    return "\n".join(lines)


def processor_seconds() -> float:
    """Of this process and of all that it has started and that have ended."""
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def real_steps(batch: int, repeats: int) -> None:
    """Time and resident memory of real steps of the zoo's ResNet-50, for points of its frontier."""
    shape = (batch, 3, 224, 224)
    model = build_model(RESNETS["resnet50"])
    _, info = memonger.search_plan(model.with_loss(), return_info=True, data=shape)
    wanted = (1.0, 0.87, 0.75, 0.65, 0.5, 0.0)
    plain = info.frontier[-1].bytes
    below = [[point for point in info.frontier if point.bytes <= share * plain] for share in wanted]
    chosen = [max(points, key=lambda p: p.bytes) if points else info.frontier[0] for points in below]
    points = list({point.bytes: point for point in chosen}.values())
    executors = [bound(point.symbol(), {"data": shape}) for point in points]
    seconds = [[] for _ in executors]  # type: ignore[var-annotated]
    for _ in range(repeats + 1):
        for executor, taken in zip(executors, seconds, strict=True):  # in turns: a slow moment slows all
            taken.append(step_seconds(executor))
    first = min(seconds[0][1:])
    print(f"zoo resnet50, batch {batch}, {repeats} steps each in turns, the fastest counts:")
    for point, taken in zip(points, seconds, strict=True):
        rss = resident_mib(point.symbol(), {"data": shape})
        sizes = f"plan {point.bytes / MIB:5.0f} MiB ({point.bytes / plain:.2f}x), resident {rss:.0f} MiB above start"
        times = f"step {min(taken[1:]):.2f} s ({min(taken[1:]) / first:.2f}x)"
        print(f"  {sizes}, again {100 * point.recomputed_share:3.0f} %, {times}")


def resident_rows(batch: int, only: str) -> None:
    """The plan's figure and the resident memory of a real step, for each way to keep values, a line a network."""
    print("| network | kept | plan MiB | resident MiB above start |")
    print("|---|---|---|---|")
    image = {"data": (batch, 3, 224, 224)}
    networks: dict[str, Any] = {
        name: (build_model(variants[name]).with_loss(), image)
        for name, variants in (("resnet50", RESNETS), ("densenet201", DENSENETS), ("mobilenet_v2", MOBILENETS))
    }
    networks["LSTM 4x512, 50 steps"] = lstm(50)()
    for name, (sym, shapes) in networks.items():
        if only not in name:
            continue
        ways = {"plain": sym, "planned": memonger.search_plan(sym, 1, workers=0, **shapes)}
        if shapes is image:
            ways["codes of 2 bits"] = compress(sym, "2")
        for way, symbol in ways.items():
            plan = plan_bytes(symbol, None, shapes, finer=1) / MIB
            print(f"| {name} | {way} | {plan:.0f} | {resident_mib(symbol, shapes):.0f} |", flush=True)


def bound(sym: Any, shapes: Mapping[str, tuple[int, ...]]) -> Any:
    """An executor on random values; arrays that codes ask for twice are there once."""
    names, (found, _, states) = sym.list_arguments(), sym.infer_shape(**shapes)
    draw = np.random.default_rng(0)
    own = {
        name: mx.nd.zeros(shape) if "label" in name else mx.nd.array(draw.standard_normal(shape, np.float32) * 0.01)
        for name, shape in zip(names, found, strict=True)
        if not name.endswith(VALUE)
    }
    gradients = {name: mx.nd.zeros_like(array) for name, array in own.items() if name not in shapes}
    gradients = {name: array for name, array in gradients.items() if "label" not in name}
    return sym.bind(
        mx.cpu(),
        args=[own[name.removesuffix(VALUE)] for name in names],
        args_grad=gradients,
        grad_req={name: "write" if name in gradients else "null" for name in names},
        aux_states=[mx.nd.zeros(shape) for shape in states],
    )


def step_seconds(executor: Any) -> float:
    """Of a forward and a backward pass."""
    mx.nd.waitall()
    start = time.perf_counter()
    executor.forward(is_train=True)
    executor.backward()
    mx.nd.waitall()
    return time.perf_counter() - start


def resident_mib(sym: Any, shapes: Mapping[str, tuple[int, ...]]) -> float:
    """How far the resident memory of a fresh process grows in a step, parameters and their gradients included."""
    code = (
        "import re, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from benchmarks.mxnet_memory import bound, step_seconds, mx\n"
        "def kib(kind): return int(re.search(kind + r':\\s+(\\d+)', Path('/proc/self/status').read_text()).group(1))\n"
        "sym = mx.sym.load_json(sys.stdin.read())\n"
        "before = kib('VmRSS')\n"
        f"step_seconds(bound(sym, {dict(shapes)}))\n"
        "print((kib('VmHWM') - before) / 1024)\n"
    )
    command = [sys.executable, "-c", code, str(ROOT)]
    done = subprocess.run(command, input=sym.tojson(), capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose names hold this")
    parser.add_argument("--ntrial", type=int, default=6, help="how long each search may take, times eight seconds")
    parser.add_argument("--workers", type=int, help="processes that bind; changes no figure")
    parser.add_argument("--frontier", action="store_true", help="print every point between")
    parser.add_argument("--steps", action="store_true", help="measure real steps instead")
    parser.add_argument("--resident", action="store_true", help="measure what real steps take instead")
    parser.add_argument("--batch", type=int, default=8, help="for --steps and --resident")
    parser.add_argument("--repeats", type=int, default=3, help="for --steps")
    given = parser.parse_args()
    print(f"MXNet {mx.__version__}, Python {platform.python_version()}, {platform.machine()}; MiB of MXNet's own plan")
    if given.steps:
        real_steps(given.batch, given.repeats)
        return
    if given.resident:
        resident_rows(given.batch, given.only)
        return
    print("| network | plain | original search | here | ratio | to reach | again | at <= 70 % products | processor s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in CASES:
        if given.only in case.name:
            print(row(case, given.ntrial, given.frontier, given.workers), flush=True)


if __name__ == "__main__":
    main()
