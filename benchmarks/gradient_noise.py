"""Bias and variance of a whole network's gradient under compression, against the exact one: ActNN's own check.

Run: python benchmarks/gradient_noise.py [--schemes 2 4 L3 gact:4 autoquant-sr] [--runs 100] [--model resnet20]
Of one batch (of mnist5k, or --data) the gradient is taken exactly and many times with compression. Bias is the squared
distance of the mean to the exact gradient, in units of what chance alone gives (1 = no bias; the last columns say how
sure that is). Norms run with the batch's statistics, whose own documented bias is part of what is seen.
Then, with the norms' statistics frozen, so that each weight's gradient has the noise of its own input alone, the
variance that L3 predicts from its backward passes is set against the measured one.
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
    rounds = model.compression.scheme.stochastic  # to nearest there is no chance to compare with
    bias = (samples.mean(0) - exact).square().sum() / (variance / arguments.runs if rounds else squared)
    along = samples @ exact / squared - 1  # along the exact gradient: 0 without bias
    errors = f"{float(along.mean() / (along.std() / arguments.runs**0.5)):+.1f}" if rounds else "to nearest"
    chance = f"{float(bias):.2f}" if rounds else "-"
    bits = model.compression.average_bits or float(model.compression.scheme.bits or 0)
    return f"| {scheme} | {variance / squared:.4f} | {chance} | {along.mean():+.5f} | {errors} | {bits:.2f} |"


def prediction(arguments: argparse.Namespace, images: torch.Tensor, targets: torch.Tensor) -> str:
    """L3's predicted variance over the measured one, and the bias, with frozen statistics."""
    torch.manual_seed(0)
    model = zoo.create_model(arguments.model, num_classes=10)
    gradient(model, images, targets)  # moves the statistics off their start
    model.eval()
    exact = gradient(model, images, targets)
    compress(model, "L3").eval()
    predicted, samples = [], []
    for run in range(arguments.runs + 2):
        found = gradient(model, images, targets)
        if run >= 2:
            samples.append(found)
            predicted.append(sum(site.variance for site in model.compression.sites if site.is_measured))
    stacked = torch.stack(samples)
    along = stacked @ exact / exact.square().sum() - 1
    errors = float(along.mean() / (along.std() / arguments.runs**0.5))
    bias = float((stacked.mean(0) - exact).square().sum() / (stacked.var(0).sum() / arguments.runs))
    ratio = sum(predicted) / len(predicted) / float(stacked.var(0).sum())
    return (
        f"L3, frozen statistics: predicted over measured variance {ratio:.3f}; bias over chance {bias:.2f}, "
        f"along the exact gradient {errors:+.1f} standard errors"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--schemes", nargs="+", default=["1", "2", "4", "8", "L3", "gact:4", "autoquantz", "autoquant-sr"]
    )
    parser.add_argument("--runs", type=int, default=100, help="gradients of each scheme (default 100)")
    parser.add_argument("--model", default="resnet20", help="a name of python -m zoo list (default resnet20)")
    parser.add_argument("--data", default="mnist5k", help="a data set of images (default mnist5k)")
    parser.add_argument("--batch", type=int, default=32, help="images (default 32)")
    arguments = parser.parse_args()
    data = in_colour(zoo.data.load(arguments.data))
    images = torch.from_numpy(data.train_images[: arguments.batch].copy()).float() / 255
    targets = torch.from_numpy(data.train_labels[: arguments.batch].copy()).long()
    how = f"{arguments.model} on {arguments.data}, batch {arguments.batch}, {arguments.runs} runs"
    print(f"{how}; {measured_with('cpu')}\n")
    print("| scheme | variance over exact^2 | bias over chance | along exact | in standard errors | bits |")
    print("|---|---|---|---|---|---|")
    for scheme in arguments.schemes:
        print(noise(scheme, arguments, images, targets), flush=True)
    print(f"\n{prediction(arguments, images, targets)}")


if __name__ == "__main__":
    main()
