"""The folder of one training run: what lies in it, when it may be written, and how it is never left half-written."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import cast

import zoo
from zoo.atomic_write import atomic_write
from zoo.progress import count

CONFIG, METRICS, RESULT = "config.json", "metrics.csv", "result.json"
METRICS_COLUMNS = (
    "epoch",
    "lr",
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "peak_bytes",
    "step_seconds",  # the last two are wall-clock times: all other columns repeat exactly with the same seed
    "images_per_second",
)
Row = dict[str, float | int | None]  # one line of metrics.csv

# These change where, how fast or in how many bytes a run goes on, not what is computed (but for float rounding).
MAY_CHANGE = frozenset(
    {
        *("save", "resume", "progress", "tensorboard", "compare"),
        *("download", "data_dir", "device", "num_workers", "cuda_graphs", "horovod"),
        *("efficient", "keep_bottleneck", "opt_memory", "budget"),
    }
)
_PACKAGES = ("numpy", "torch", "tensorflow-cpu", "tensorflow", "mxnet")


class RunFolderError(ValueError):
    """The folder cannot take this run; the message says why and what to do. Nothing in it was touched."""


def check_save_folder(save: str | Path, resume: bool = False, flags: Mapping[str, object] | None = None) -> None:
    """Refuse, before any work, a folder that cannot take the run; touches nothing.

    Args:
        save: the folder; it need not exist yet.
        resume: True = it must hold a run of the same flags; False = it must hold none.
        flags: what the resumed run must have been started with; flags it does not name are not compared.

    Raises:
        RunFolderError: not a folder, not writable, holds a run (without `resume`); holds none, another, or one
            whose checkpoint is missing (with).
    """
    folder = Path(save).expanduser()
    try:
        _check_writable(folder)
        held = _files_of_a_run(folder)
    except OSError as error:
        reason = error.strerror or str(error)
        raise RunFolderError(f"--save {folder}: cannot write there ({reason}): give another folder") from None
    if held and not resume:
        raise RunFolderError(
            f"{folder} already holds a run ({', '.join(held)}): give another --save folder, "
            "or --resume True to go on with that run"
        )
    if resume:
        _check_same_run(folder, flags or {})


def holds_run(save: str | Path) -> bool:
    """Whether a run was started in this folder."""
    return (Path(save).expanduser() / CONFIG).is_file()


def read_flags(save: str | Path) -> dict[str, object]:
    """The flags a saved run was started with.

    Raises:
        RunFolderError: no run there, or its config.json cannot be read.
    """
    path = Path(save).expanduser() / CONFIG
    if not path.exists():
        raise RunFolderError(f"nothing to resume: {path} does not exist; start the run without --resume")
    flags = read_config(save).get("flags")
    if not isinstance(flags, dict):
        raise RunFolderError(_no_config(path, f"flags: {flags!r}"))
    return flags


def read_config(save: str | Path) -> dict[str, object]:
    """All that a saved run's config.json holds: flags, network, versions.

    Raises:
        RunFolderError: no run there, or its config.json cannot be read.
    """
    path = Path(save).expanduser() / CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFolderError(f"{path} does not exist: give the --save folder of a run") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(_no_config(path, error)) from None
    if not isinstance(content, dict):
        raise RunFolderError(_no_config(path, f"it holds {content!r}"))
    return content


def _no_config(path: Path, reason: object) -> str:
    weights = sorted(path.parent.glob("best.*"))
    kept = f"; {weights[0]} still holds the best weights" if weights else ""
    return (
        f"{path} is not the config.json of a run ({reason}): restore it, "
        f"or give another --save folder to start anew{kept}"
    )


def finished_epochs(save: str | Path) -> int:
    """Epochs that metrics.csv tells of; 0 where there is none."""
    try:
        lines = (Path(save).expanduser() / METRICS).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return 0
    return max(0, len(lines) - 1)


def read_result(save: str | Path) -> dict[str, object] | None:
    """How a finished run ended, or None for one that has not ended (or whose result.json cannot be read)."""
    try:
        content = json.loads((Path(save).expanduser() / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


@dataclass(frozen=True)
class RunFolder:
    """One run's files: config.json, metrics.csv, checkpoints "last" and "best", result.json; each written atomically.

    Args:
        folder: where.
        suffix: of the checkpoints, the framework's usual one.
    """

    folder: Path
    suffix: str = ".pt"

    @classmethod
    def open(
        cls, settings: Mapping[str, object], suffix: str = ".pt", network: Mapping[str, object] | None = None
    ) -> RunFolder:
        """Start the run `settings["save"]` names, or (with `settings["resume"]`) go on with it.

        `network` is the model's family and every field of its config: what the weights can be loaded into.

        Raises:
            RunFolderError: see `check_save_folder`.
        """
        settings = json.loads(json.dumps(settings, default=str))  # as it will be read back: tuples become lists
        run = cls(Path(str(settings["save"])).expanduser(), suffix)
        resume = bool(settings.get("resume"))
        check_save_folder(run.folder, resume, settings)
        if resume and run.last.exists():
            before = read_flags(run.folder)
            may_change = sorted((MAY_CHANGE - {"resume"}) & set(settings))
            changed = {name: settings[name] for name in may_change if before.get(name) != settings[name]}
            if changed:
                run._add_to_config("resumed_with", changed)
        else:
            run.folder.mkdir(parents=True, exist_ok=True)
            run._write_json(CONFIG, {"flags": settings, "network": network, "versions": versions(), "resumed_with": []})
        return run

    @property
    def last(self) -> Path:
        """Checkpoint after the last finished epoch: all that resuming needs."""
        return self.folder / f"last{self.suffix}"

    @property
    def best(self) -> Path:
        """Weights of the best epoch."""
        return self.folder / f"best{self.suffix}"

    def write_metrics(self, rows: Sequence[Mapping[str, object]]) -> None:
        """Write metrics.csv whole: a row per finished epoch (None = an empty field)."""
        text = io.StringIO(newline="")
        extra = [name for name in (rows[0] if rows else {}) if name not in METRICS_COLUMNS]
        writer = csv.DictWriter(text, (*METRICS_COLUMNS, *extra), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with atomic_write(self.folder / METRICS) as file:
            file.write(text.getvalue().encode())

    def write_result(self, result: Mapping[str, object]) -> None:
        """Write result.json: how the finished run ended."""
        self._write_json(RESULT, result)

    def _add_to_config(self, key: str, entry: object) -> None:
        content = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
        content.setdefault(key, []).append(entry)
        self._write_json(CONFIG, content)

    def _write_json(self, name: str, content: Mapping[str, object]) -> None:
        with atomic_write(self.folder / name) as file:
            file.write((json.dumps(content, indent=2, default=str) + "\n").encode())


def best_epoch(rows: list[Row]) -> int:
    """The epoch (from 1) with the highest validation accuracy; without validation images, the last.

    Of several with the same accuracy, the one with the lowest validation loss; of the same loss too, the first.
    """
    if rows[-1]["valid_accuracy"] is None:
        return len(rows)

    def rank(index: int) -> tuple[float, float]:
        accuracy, loss = (rows[index][name] for name in ("valid_accuracy", "valid_loss"))
        known = loss is not None and not math.isnan(loss)
        return cast(float, accuracy), -cast(float, loss) if known else -math.inf

    return 1 + max(range(len(rows)), key=rank)


def bits_per_character(row: Row) -> Row:
    """Columns that a run on a text has besides: its losses in bits instead of nats.

    Example:
        >>> bits_per_character({"train_loss": math.log(8), "valid_loss": None})
        {'train_bits_per_character': 3.0, 'valid_bits_per_character': None}
    """
    return {
        f"{part}_bits_per_character": None if loss is None else loss / math.log(2)
        for part in ("train", "valid")
        for loss in [row[f"{part}_loss"]]
    }


def versions() -> dict[str, str]:
    """Python's version and those of the packages a run depends on, without importing them."""
    found = {"python": platform.python_version(), "memory-efficient-zoo": zoo.__version__}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package).partition("+")[0]  # which build it is does not belong here
    return found


def _files_of_a_run(folder: Path) -> list[str]:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(n for n in names if n in (CONFIG, METRICS, RESULT) or n.startswith(("last.", "best.")))


def _check_writable(folder: Path) -> None:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    # A real file, because permission bits say nothing to root or on a read-only file system.
    with tempfile.TemporaryFile(dir=existing):
        pass


def _check_same_run(folder: Path, flags: Mapping[str, object]) -> None:
    before = read_flags(folder)
    held = _files_of_a_run(folder)
    if not any(name.startswith("last.") for name in held):
        epochs = finished_epochs(folder)
        if epochs or RESULT in held:
            raise RunFolderError(
                f"{folder} holds {count(epochs, 'finished epoch')}, but not their checkpoint (last.*), which resuming "
                "needs: restore that file, or start a new run in another --save folder. Nothing was changed"
            )
        return  # stopped before its first checkpoint: nothing was computed that other flags could contradict
    different = [
        f"{name} was {before[name]!r}, now {flags[name]!r}"
        for name in sorted(set(before) & set(flags) - MAY_CHANGE)
        if before[name] != flags[name]
    ]
    if different:
        raise RunFolderError(
            f"{folder} holds a run with other flags: {'; '.join(different)}. "
            "Leave these flags out to go on with that run, or start a new one in another --save folder"
        )
