"""One process that has all three frameworks: weights of each give the same outputs in the two others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from zoo import frameworks
from zoo.frameworks import FRAMEWORKS, why_missing
from zoo.policy import MemoryPolicy
from zoo.support import FAMILIES

MISSING = [why for row in FRAMEWORKS.values() if (why := why_missing(row))]
pytestmark = pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING))

SMALL = {name: (small.config, (2, *small.shape[1:])) for name, small in FAMILIES.items() if name != "lstm"}
SMALL["lstm"] = (dataclasses.replace(FAMILIES["lstm"].config, hidden_size=8), (2, *FAMILIES["lstm"].shape[1:]))
PUBLISHED = {"densenet_bc_100_12": 32, "resnet50": 64, "mobilenet_v2": 64, "lstm_row_mnist": 28}


def cases() -> list[Any]:
    """Small networks; and, marked slow, a published one of each family."""
    found = [pytest.param(*case, id=f"small {name}") for name, case in SMALL.items()]
    for name, pixels in PUBLISHED.items():
        config = zoo.find_config(name)
        channels = getattr(config, "in_chans", 3)
        shape = (2, channels, pixels, pixels)
        if hasattr(config, "sequence_shape"):
            shape = config.sequence_shape(pixels, 2)
        found.append(pytest.param(config, shape, id=name, marks=pytest.mark.slow))
    return found


def outputs(framework: str, model: Any, inputs: np.ndarray) -> np.ndarray:
    """What a model gives in evaluation; inputs (N, C, H, W)."""
    if framework == "torch":
        import torch

        with torch.no_grad():
            return np.asarray(model.eval()(torch.from_numpy(inputs)))
    if framework == "mxnet":
        return np.asarray(model.predict(inputs).asnumpy())
    from tf_models.step import shaped_input

    return np.asarray(model(shaped_input(model, inputs), training=False))


@pytest.mark.parametrize(("config", "shape"), cases())
def test_weights_go_between_all_three(config: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    packages = {name: frameworks.load(name) for name in FRAMEWORKS}
    for origin, package in packages.items():
        package.set_seed(1)
        model = package.build_model(config, MemoryPolicy(efficient=origin == "tensorflow"))
        path = tmp_path / f"{origin}.safetensors"
        package.save_weights(model, path)
        expected = outputs(origin, model, inputs)
        assert np.ptp(expected) > 0
        for name, other in packages.items():
            if name != origin:
                loaded = other.build_model(config)
                other.load_weights(loaded, path)
                found = outputs(name, loaded, inputs)
                assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), f"{origin} to {name}"
