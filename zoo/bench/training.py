"""Tables of trained networks: test accuracy, average bits and time of the same recipe kept in several ways."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import zoo
import zoo.data
from zoo import frameworks
from zoo.bench.steps import StepCase
from zoo.bench.table import Column, Place, Row, with_ratios
from zoo.data.image_data import ImageData
from zoo.experiment import in_colour
from zoo.options import TrainingOptions
from zoo.run_folder import holds_run

COLUMNS: tuple[Column, ...] = (
    Column("case", "scheme"),
    Column("published_accuracy", "published %", "percent"),
    Column("published_points", "published points", "points"),
    Column("published_bits", "published bits", "bits"),
    Column("accuracy", "accuracy %", "percent"),
    Column("accuracy_lowest", "lowest", "percent"),
    Column("accuracy_highest", "highest", "percent"),
    Column("points", "points", "points"),
    Column("bits", "bits", "bits"),
    Column("saved_bytes", "saved MiB", "mib"),
    Column("saved_ratio", "of baseline", "ratio"),
    Column("peak_bytes", "peak MiB", "mib"),
    Column("peak_ratio", "of baseline", "ratio"),
    Column("epoch_seconds", "epoch s", "seconds"),
    Column("time_ratio", "of baseline", "ratio"),
    Column("seeds", ""),
)
RATIOS: Mapping[str, str] = MappingProxyType(
    {"saved_ratio": "saved_bytes", "peak_ratio": "peak_bytes", "time_ratio": "epoch_seconds"}
)


@dataclass(frozen=True)
class TrainingWork:
    """One recipe, trained once a case and seed.

    Args:
        model: a name of `zoo.list_models()`.
        data: a name of `zoo.data`.
        cases: the first one is the baseline.
        n_epochs, batch_size, lr: of the recipe.
        seeds: runs of each case, from seed 0.
        most_images: of the training images, the first so many, and half as many of the test images; None = all.
        overrides: fields of the model's config that are changed.
        saved: runs are saved, and a started table goes on with them.
    """

    model: str
    data: str
    cases: tuple[StepCase, ...]
    n_epochs: int
    batch_size: int = 64
    lr: float = 0.1
    seeds: int = 1
    most_images: int | None = None
    overrides: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    saved: bool = False

    @property
    def columns(self) -> Sequence[Column]:
        """Of training runs."""
        return COLUMNS

    @property
    def conditions(self) -> Mapping[str, str]:
        """The recipe."""
        images = "" if self.most_images is None else f", its first {self.most_images} training images"
        changed = "".join(f", {name}={value}" for name, value in self.overrides.items())
        return {
            "network": f"{self.model}{changed}",
            "data": f"{self.data}{images}",
            "recipe": f"{self.n_epochs} epochs, batch {self.batch_size}, learning rate {self.lr}",
            "seeds": ", ".join(map(str, range(self.seeds))),
            "accuracy": "of the test images, with the last epoch's weights: mean, lowest and highest of the seeds",
        }

    def untimed(self) -> TrainingWork:
        """Refused: networks are trained for their accuracy, and the time of that costs nothing more."""
        raise ValueError("--times False: this table trains its networks, and times come along: leave the flag out")

    def rows(self, place: Place) -> Iterator[Row]:
        """Case by case; ratios and points are to the first."""
        data = self._images()
        baseline: dict[str, Any] = {}
        for case in self.cases:
            runs = [self._run(case, seed, data, place) for seed in range(self.seeds)]
            row = {"case": case.name, **case.published.row(), **_over_seeds(runs)}
            baseline = baseline or row
            row["points"] = row["accuracy"] - baseline["accuracy"]
            if "published_accuracy" in row and "published_accuracy" in baseline:
                row["published_points"] = row["published_accuracy"] - baseline["published_accuracy"]
            yield with_ratios([baseline, row], RATIOS)[1]

    def _images(self) -> ImageData:
        found = zoo.data.load(self.data)
        if not isinstance(found, ImageData):
            raise ValueError(f"{self.data} holds no images")
        images = in_colour(found)
        if self.most_images is None:
            return images
        train, test = self.most_images, self.most_images // 2
        return dataclasses.replace(
            images,
            train_images=images.train_images[:train],
            train_labels=images.train_labels[:train],
            test_images=images.test_images[:test],
            test_labels=images.test_labels[:test],
        )

    def _run(self, case: StepCase, seed: int, data: ImageData, place: Place) -> dict[str, Any]:
        package = frameworks.load(place.framework)
        package.set_seed(seed)
        fields = {**case.flags, **self.overrides, "num_classes": len(data.classes)}
        model = zoo.create_model(self.model, place.framework, **fields)
        save = place.folder / "runs" / f"{case.name}-{seed}" if self.saved else None
        options = TrainingOptions(
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            valid_size=0,
            seed=seed,
            device=place.device,
            progress=False,
            save=None if save is None else str(save),
            resume=save is not None and holds_run(save),
            description={"table_case": case.name, "data": self.data},
        )
        start = time.perf_counter()
        result = package.train(model, data, options)
        seconds = time.perf_counter() - start
        shape = (self.batch_size, *data.train_images.shape[1:])
        # After training: some schemes learn their bits on the way.
        report = package.measure_step(model, shape, device=place.device, repeats=0)
        own = getattr(getattr(model, "compression", None), "average_bits", None)
        return {
            "accuracy": 100 * result.test_accuracy,
            "bits": own,
            "saved_bytes": report.saved_bytes,
            "peak_bytes": report.peak_bytes,
            "epoch_seconds": _epoch_seconds(result, len(data.train_images), seconds / self.n_epochs),
        }


def _epoch_seconds(result: Any, images: int, otherwise: float) -> float:
    """Of an epoch's training, as the metrics tell, resumed runs too; the evaluation is not in it."""
    rates = [row.get("images_per_second") for row in result.metrics]
    known = [float(rate) for rate in rates if rate]
    return images / statistics.median(known) if known else otherwise


def _over_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    accuracies = [run["accuracy"] for run in runs]
    bits = [run["bits"] for run in runs if run["bits"] is not None]
    return {
        "accuracy": statistics.fmean(accuracies),
        "accuracy_lowest": min(accuracies),
        "accuracy_highest": max(accuracies),
        "bits": statistics.fmean(bits) if bits else None,
        "saved_bytes": runs[0]["saved_bytes"],
        "peak_bytes": runs[0]["peak_bytes"],
        "epoch_seconds": statistics.median(run["epoch_seconds"] for run in runs),
        "seeds": len(runs),
    }
