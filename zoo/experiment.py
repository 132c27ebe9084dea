"""What one call of the training command asks for: flags in, a validated, frozen experiment out; no framework."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import zoo.data
from zoo import find_config, frameworks, list_models
from zoo.choices import unknown
from zoo.data.image_data import ImageData
from zoo.data.text_data import Data, TextData, is_text, with_whole_path
from zoo.densenet import DenseNetConfig
from zoo.flags import Value
from zoo.launch import Launch
from zoo.lstm import FAMILY_DEFAULTS, LSTMConfig
from zoo.options import TrainingOptions
from zoo.policy import MemoryPolicy
from zoo.refusals import Request, check_offered
from zoo.run_folder import check_save_folder, read_flags

FAMILY = "densenet"
SHAPE_DEFAULTS: Mapping[str, Any] = MappingProxyType({"depth": 100, "growth_rate": 12, "bottleneck": True})
SHAPE_FLAGS = ("depth", "growth_rate", "bottleneck", "bn_size", "compression")
VALID_SIZE, VALID_SHARE = 5000, 10  # images, and the most that are held back: a tenth

# What a flag left at None means, for people.
DEFAULTS_IN_WORDS: Mapping[str, object] = MappingProxyType(
    {
        **SHAPE_DEFAULTS,
        "save": "nothing is saved",
        "compression": "0.5 with bottlenecks, else 1",
        "bn_size": "4 with bottlenecks",
        "drop_rate": "as published: 0, of MobileNetV2 0.2",
        "opt_memory": "not used",
        "compressed": "not used",
        "budget": "not used",
        "valid_size": f"{VALID_SIZE}, or a tenth of the training images if that is less",
    }
)

# Without --data: a real data set that needs no download, and a network that learns it in about a minute on two cores.
WITHOUT_DATA: Mapping[str, Value] = MappingProxyType({"depth": 22, "n_epochs": 6, "efficient": True, "compare": True})


def defaults_for_help(defaults: Mapping[str, Value]) -> dict[str, str]:
    """How --help shows each default, with what it is when --data is omitted."""
    return {
        name: f"{DEFAULTS_IN_WORDS.get(name, value)}"
        + (f"; {WITHOUT_DATA[name]} when --data is omitted" if name in WITHOUT_DATA else "")
        for name, value in defaults.items()
    }


@dataclass(frozen=True)
class Experiment:
    """One training run, checked as far as it can be without a framework and without reading the data.

    Args:
        framework: a name from `zoo.frameworks`.
        data, data_dir, download: what `zoo.data.load` takes.
        config: the network, of any family (its number of classes is the data's, once that is read).
        policy: what the network keeps for its backward pass.
        options: how it is trained.
        budget: of a step's bytes, for which a plan decides what is kept; None = the policy decides.
        compare: measure a step of the plain and the efficient network at the end.
    """

    framework: str
    data: str
    data_dir: str
    download: bool
    config: Any
    policy: MemoryPolicy
    options: TrainingOptions
    compare: bool
    budget: str | None = None

    def load_data(self) -> Data:
        """The images, in colour for networks that read three channels; or the text.

        Raises:
            OSError, ValueError, ImportError: as `zoo.data.load`.
        """
        data = zoo.data.load(self.data, self.data_dir, download=self.download)
        return data if isinstance(data, TextData) or isinstance(self.config, LSTMConfig) else in_colour(data)

    def with_data(self, data: Data, valid_size: int | None) -> Experiment:
        """This experiment with what only the data tells: classes, and how many images to hold back if not given.

        Raises:
            ValueError: more validation images are asked for than there are.
        """
        if valid_size is None:
            valid_size = min(VALID_SIZE, len(data.train_inputs) // VALID_SHARE)
        data.split(valid_size, self.options.seed)
        description = {**self.options.description, "num_classes": len(data.classes)}
        options = dataclasses.replace(self.options, valid_size=valid_size, description=description)
        config = dataclasses.replace(self.config, num_classes=len(data.classes))
        if isinstance(config, LSTMConfig):
            config = config.reading(data.train_inputs.shape[1:])
        return dataclasses.replace(self, options=options, config=config)


def complete(given: Mapping[str, Value], defaults: Mapping[str, Value]) -> dict[str, Value]:
    """Every flag's value: as given, else as the resumed run had it, else the default (`WITHOUT_DATA` where it applies).

    A run that its launcher has started again is resumed, whatever its flags say.

    Raises:
        zoo.run_folder.RunFolderError: there is no run to resume.
    """
    filled: dict[str, Value] = dict(defaults)
    save = given.get("save")
    if Launch.from_environment().goes_on(str(save) if save else None):
        given = {**given, "resume": True}
    if given.get("resume") and given.get("save"):
        saved = read_flags(str(given["save"]))
        filled |= {name: saved[name] for name in defaults if name in saved and name not in ("save", "resume")}  # type: ignore[misc]
    elif given.get("data") is None:
        filled |= WITHOUT_DATA
        if given.get("model", FAMILY) != FAMILY:
            filled["depth"] = None
    # One way to save memory that is given clears the other one, where that is only a default or a resumed run's.
    if given.get("opt_memory") is not None:
        filled |= {"efficient": False, "keep_bottleneck": False, "compressed": None}
    elif any(given.get(name) for name in ("efficient", "keep_bottleneck", "compressed")):
        filled["opt_memory"] = None
    if given.get("budget") is not None:
        filled |= {"efficient": False, "keep_bottleneck": False, "opt_memory": None, "compressed": None}
    elif any(given.get(name) for name in ("efficient", "compressed")) or given.get("opt_memory") is not None:
        filled["budget"] = None
    if given.get("efficient") is False:
        filled["keep_bottleneck"] = False
    return {**filled, **{name: value for name, value in given.items() if not (name == "data" and value is None)}}


def plan(flags: Mapping[str, Any]) -> Experiment:
    """Check every flag and say what they mean together, before anything heavy is imported or written.

    Raises:
        ValueError, TypeError: a value that cannot be, or values that contradict one another.
        FileNotFoundError: no such data folder.
        ImportError: the framework, or a package that brings the data, is not installed.
    """
    framework = frameworks.find(flags["framework"])
    config = find_network(flags)
    policy = MemoryPolicy(flags["efficient"], flags["keep_bottleneck"], flags["opt_memory"], flags["compressed"])
    config.check_policy(policy)
    if flags["budget"] is not None:
        _check_budget(flags["budget"], policy)
    chosen = {field.name: flags[field.name] for field in dataclasses.fields(TrainingOptions) if field.name in flags}
    if chosen["valid_size"] is None:
        del chosen["valid_size"]
    wanted = TrainingOptions(**chosen)  # before the data is looked for: what is wrong in itself is told first
    check_offered(framework.name, Request(config, policy, wanted, flags["budget"], Launch.from_environment()))
    zoo.data.check(flags["data"], flags["data_dir"])
    flags = _with_whole_paths(flags)
    description = {name: value for name, value in flags.items() if name not in TrainingOptions.__dataclass_fields__}
    options = TrainingOptions(**chosen, description=description)
    missing = frameworks.why_missing(framework)
    if missing:
        raise ImportError(missing)
    if options.horovod:
        _require("horovod", "--horovod True", "'horovod[tensorflow]' (it is compiled: set HOROVOD_WITH_TENSORFLOW=1)")
    if options.tensorboard:
        _require("tensorboard", "--tensorboard True", "tensorboard")
    if options.save is not None:
        _require("matplotlib", "--save (it draws the run)", "'memory-efficient-zoo[demo]'")
        if Launch.from_environment().is_first:  # which makes the folder, perhaps before another process gets here
            check_save_folder(options.save, options.resume, flags)
    asked = {name: flags[name] for name in ("framework", "data", "data_dir", "download", "compare", "budget")}
    return Experiment(config=config, policy=policy, options=options, **asked)


def _check_budget(budget: str, policy: MemoryPolicy) -> None:
    from zoo.planner.budget import parse_budget

    parse_budget(budget, 2**60)
    if policy != MemoryPolicy():
        raise ValueError(f"--budget {budget} and {policy} both say what to keep: give one of them")


def _with_whole_paths(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags with absolute paths of the data: a saved run can be resumed from another folder."""
    whole = {name: str(Path(flags[name]).expanduser().absolute()) for name in ("data_dir", "data")}
    data = flags["data"]
    if is_text(data):
        whole["data"] = with_whole_path(data)
    elif data in zoo.data.DATASETS:
        whole["data"] = data
    return {**flags, **whole}


def _require(module: str, what: str, install: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{what} needs {module}: pip install {install}")


def in_colour(data: ImageData) -> ImageData:
    """Grey images as three equal channels (a view: no pixel is copied); colour images as they are.

    Example:
        >>> in_colour(zoo.data.load("mnist5k")).train_images.shape
        (4000, 3, 32, 32)
    """
    if data.train_images.shape[1] != 1:
        return data
    train, test = (
        np.broadcast_to(images, (len(images), 3, *images.shape[2:])) for images in (data.train_images, data.test_images)
    )
    return dataclasses.replace(data, train_images=train, test_images=test, mean=data.mean * 3, std=data.std * 3)


def find_network(flags: Mapping[str, Any]) -> Any:
    """The config of the network that `model` and the flags of its shape describe.

    Raises:
        ValueError, TypeError: no such model, a shape that cannot be, or one given beside a name that fixes it.
    """
    model, given = flags["model"], {name: flags[name] for name in SHAPE_FLAGS if flags[name] is not None}
    drop_rate = {} if flags["drop_rate"] is None else {"drop_rate": flags["drop_rate"]}
    if model == FAMILY:
        shape = {**SHAPE_DEFAULTS, **given, **drop_rate}
        if not shape["bottleneck"] and shape.get("bn_size"):
            raise ValueError(f"bottleneck=False and bn_size={shape['bn_size']} contradict one another: leave one out")
        if shape["bottleneck"] and shape.get("bn_size") == 0:
            raise ValueError("bn_size=0 means no bottleneck: give --bottleneck False instead")
        _check_reads(None, model, flags["data"])
        return DenseNetConfig.from_depth(shape.pop("depth"), shape.pop("growth_rate"), **shape)
    if model == "lstm":
        model = FAMILY_DEFAULTS["tokens" if is_text(flags["data"]) else "rows"]
    names = [FAMILY, "lstm", *list_models()]
    if model not in names:
        raise ValueError(unknown("model", model, names))
    if given:
        fixed = ", ".join(f"--{name}" for name in given)
        raise ValueError(f"--model {flags['model']} has a shape of its own: leave out {fixed}, or use --model {FAMILY}")
    config = find_config(model)
    _check_reads(config, flags["model"], flags["data"])
    if drop_rate and not hasattr(config, "drop_rate"):
        raise ValueError(f"--model {model} has no dropout: leave out --drop_rate")
    return dataclasses.replace(config, **drop_rate)


def _check_reads(config: Any, model: str, data: str) -> None:
    """Refuse a network of images with a text, and one of texts with images."""
    reads_text = getattr(config, "is_language_model", False)
    if is_text(data) and not reads_text:
        raise ValueError(f"--model {model} reads images, --data {data} is a text: give --model lstm")
    if reads_text and not is_text(data):
        raise ValueError(f"--model {model} reads texts: give --data text, or text:<file>, instead of --data {data}")
