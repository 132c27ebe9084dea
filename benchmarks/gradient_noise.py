"""Bias and variance of a whole network's gradient under compression, against the exact one: ActNN's own check.

Run: python benchmarks/gradient_noise.py [--schemes 2 4 L3 gact:4 autoquant-sr] [--runs 100] [--model resnet20]
Of one batch of mnist5k the gradient is taken exactly and many times with compression. Bias is the squared distance of
the mean to the exact gradient, in units of what chance alone gives (1 = no bias; the last columns say how sure that
is). Norms run with the batch's statistics, whose own documented bias is part of what is seen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

# Python looks first beside this file, where kernels.py is called like a package: look in the project instead.
sys.path[0] = str(Path(__file__).resolve().parents[1])
import torch  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import zoo  # noqa: E402
import zoo.data  # noqa: E402
from benchmarks.rows import measured_with  # noqa: E402
from pytorch_models.compressed import compress  # noqa: E402
from zoo.experiment import in_colour  # noqa: E402


def gradient(model: Any, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """All weights' gradients of one step, float64."""
    model.zero_grad()
    F.cross_entropy(model(images), targets).backward()
    return torch.cat([parameter.grad.flatten().double() for parameter in model.parameters()])


def noise(scheme: str, arguments: argparse.Namespace, images: torch.Tensor, targets: torch.Tensor) -> str:
    """A row of the table."""
    torch.manual_seed(0)
    model = zoo.create_model(arguments.model, num_classes=10)
    exact = gradient(model, images, targets)
    compress(model, scheme)
    for _ in range(2):  # what schemes learn from the first steps
        gradient(model, images, targets)
    samples = torch.stack([gradient(model, images, targets) for _ in range(arguments.runs)])
    variance, squared = samples.var(0).sum(), exact.square().sum()
    rounds = bool(variance > 1e-12 * squared)  # a scheme that rounds to nearest has no variance to compare with
    bias = (samples.mean(0) - exact).square().sum() / (variance / arguments.runs if rounds else squared)
    along = samples @ exact / squared - 1  # along the exact gradient: 0 without bias
    errors = f"{float(along.mean() / (along.std() / arguments.runs**0.5)):+.1f}" if rounds else "to nearest"
    chance = f"{float(bias):.2f}" if rounds else "-"
    bits = model.compression.average_bits or float(model.compression.scheme.bits or 0)
    return f"| {scheme} | {variance / squared:.4f} | {chance} | {along.mean():+.5f} | {errors} | {bits:.2f} |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--schemes", nargs="+", default=["1", "2", "4", "8", "L3", "gact:4", "autoquantz", "autoquant-sr"]
    )
    parser.add_argument("--runs", type=int, default=100, help="gradients of each scheme (default 100)")
    parser.add_argument("--model", default="resnet20", help="a name of python -m zoo list (default resnet20)")
    parser.add_argument("--batch", type=int, default=32, help="images (default 32)")
    arguments = parser.parse_args()
    data = in_colour(zoo.data.load("mnist5k"))
    images = torch.from_numpy(data.train_images[: arguments.batch].copy()).float() / 255
    targets = torch.from_numpy(data.train_labels[: arguments.batch].copy()).long()
    print(f"{arguments.model}, batch {arguments.batch}, {arguments.runs} runs; {measured_with('cpu')}\n")
    print("| scheme | variance over exact^2 | bias over chance | along exact | in standard errors | bits |")
    print("|---|---|---|---|---|---|")
    for scheme in arguments.schemes:
        print(noise(scheme, arguments, images, targets), flush=True)


if __name__ == "__main__":
    main()
