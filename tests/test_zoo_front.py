"""The front door: list_models, create_model, measure, the `zoo` command; with a stand-in framework and with torch."""

from __future__ import annotations

import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import zoo
from zoo import frameworks
from zoo.__main__ import COMMANDS, help_text, main
from zoo.densenet import VARIANTS, DenseNetConfig
from zoo.flags import flags_of
from zoo.frameworks import FRAMEWORKS, Framework
from zoo.policy import MemoryPolicy
from zoo.report import LayerRow, MemoryReport

ROOT = Path(__file__).resolve().parent.parent
TINY = {"block_config": (2, 2), "growth_rate": 4, "num_init_features": 8}

needs_torch = pytest.mark.skipif(
    frameworks.why_missing(FRAMEWORKS["torch"]) is not None, reason=str(frameworks.why_missing(FRAMEWORKS["torch"]))
)


class StandInModel:
    """What the stand-in framework builds."""

    def __init__(self, config: DenseNetConfig, policy: MemoryPolicy) -> None:
        self.spec, self.policy = config, policy


def measure_step(model: StandInModel, input_shape: tuple[int, ...], *, device: str = "cpu") -> MemoryReport:
    saved = 10 if model.policy.efficient else 100
    rows = (LayerRow("stem", saved, "whole"),)
    policy = "efficient" if model.policy.efficient else "plain"
    return MemoryReport("net", policy, input_shape, "float32", device, saved, saved, {"saved": saved}, 1, 0.5, rows)


def check_device(device: str, amp: bool) -> None:
    if device == "cuda:9":
        raise ValueError("only 2 GPUs are visible")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> str:
    """A framework called "stand_in", with what measuring needs of the protocol, in the table for one test."""
    package = types.ModuleType("stand_in_models")
    for name, function in (
        ("build_model", StandInModel),
        ("measure_step", measure_step),
        ("check_device", check_device),
    ):
        setattr(package, name, function)
    monkeypatch.setitem(sys.modules, "stand_in_models", package)
    row = Framework("stand_in", "stand_in_models", module="json", distribution="numpy", extra="demo")
    monkeypatch.setattr(frameworks, "FRAMEWORKS", {"stand_in": row})
    return "stand_in"


@pytest.mark.quick
def test_models_are_listed_by_family() -> None:
    assert zoo.list_models("densenet") == list(VARIANTS)
    assert zoo.list_models() == [name for family in zoo.FAMILIES for name in zoo.list_models(family)]
    assert {"resnet50", "preact_resnet56", "mobilenet_v2"} < set(zoo.list_models())
    with pytest.raises(ValueError, match=r"unknown family 'dense_net': did you mean densenet "):
        zoo.list_models("dense_net")


@pytest.mark.quick
def test_create_model_hands_config_and_policy_to_the_framework(stand_in: str) -> None:
    model = zoo.create_model("densenet121", stand_in, efficient=True, keep_bottleneck=True, num_classes=7)
    assert model.spec == DenseNetConfig(32, (6, 12, 24, 16), num_init_features=64, num_classes=7, small_inputs=False)
    assert model.policy == MemoryPolicy(efficient=True, keep_bottleneck=True)
    assert zoo.create_model("densenet121", stand_in, opt_memory=3).policy == MemoryPolicy(opt_memory=3)
    assert VARIANTS["densenet121"].num_classes == 1000


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "framework", "arguments", "kind", "words"),
    [
        ("densenet_121", "torch", {}, ValueError, r"unknown model 'densenet_121': did you mean densenet121"),
        ("DenseNet-BC-100-12", "torch", {}, ValueError, r"did you mean densenet_bc_100_12"),
        ("zebra", "torch", {}, ValueError, r"unknown model 'zebra'; known: densenet_bc_40_12"),
        ("densenet121", "touch", {}, ValueError, r"unknown framework 'touch': did you mean torch\?"),
        ("densenet121", "torch", {"growth_rat": 3}, TypeError, r"unknown field 'growth_rat': did you mean growth_rate"),
        ("densenet121", "torch", {"eficient": True}, TypeError, r"unknown field 'eficient': did you mean efficient"),
        ("densenet121", "torch", {"growth_rate": "3"}, TypeError, r"growth_rate must be an integer"),
        ("densenet121", "torch", {"num_classes": 0}, ValueError, r"num_classes must be at least 1"),
        ("densenet121", "torch", {"efficient": 1}, TypeError, r"efficient must be True or False"),
        ("densenet121", "torch", {"keep_bottleneck": True}, ValueError, r"keep_bottleneck=True changes nothing"),
    ],
)
def test_bad_arguments_are_refused_before_a_framework_is_imported(
    monkeypatch: pytest.MonkeyPatch, name: str, framework: str, arguments: dict[str, Any], kind: type, words: str
) -> None:
    def fail(framework: str) -> None:
        raise AssertionError("imported")

    monkeypatch.setattr(frameworks, "load", fail)
    for door in (zoo.create_model, zoo.measure):
        with pytest.raises(kind, match=words):
            door(name, framework, **arguments)


@pytest.mark.quick
def test_a_missing_framework_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"torch is not installed: pip install 'memory-efficient-zoo\[torch\]'"):
        zoo.create_model("densenet121")


def test_a_framework_without_wheels_for_this_python_says_so() -> None:
    row = Framework(
        "old", "old_models", module="no_such_module", distribution="old", extra="old", newest_python=(3, 11)
    )
    assert frameworks.why_missing(row, (3, 13)) == "old has no wheels for Python 3.13: use Python 3.11 or older for it"
    assert frameworks.why_missing(row, (3, 11)) == "old is not installed: pip install 'memory-efficient-zoo[old]'"


def test_a_folder_called_like_a_framework_is_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "left_behind").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    row = Framework("left", "left_models", module="left_behind", distribution="left", extra="left")
    assert frameworks.why_missing(row) == "left is not installed: pip install 'memory-efficient-zoo[left]'"


def test_an_import_error_inside_a_package_is_not_disguised(stand_in: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stand_in_models", None)
    with pytest.raises(ModuleNotFoundError, match="stand_in_models"):
        frameworks.load(stand_in)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "image_size", "expected"),
    [("densenet_bc_40_12", None, 32), ("densenet121", None, 224), ("densenet121", 64, 64)],
)
def test_measure_takes_the_published_image_size(
    stand_in: str, name: str, image_size: int | None, expected: int
) -> None:
    report = zoo.measure(name, stand_in, 2, image_size, "cuda:1", efficient=True)
    assert report.input_shape == (2, 3, expected, expected)
    assert (report.model, report.saved_bytes, report.device) == (name, 10, "cuda:1")


def test_measure_takes_a_model(stand_in: str) -> None:
    model = zoo.create_model("densenet_bc_40_12", stand_in)
    assert zoo.measure(model, stand_in, batch_size=4).input_shape == (4, 3, 32, 32)
    with pytest.raises(TypeError, match="efficient given with a model that is built already"):
        zoo.measure(model, stand_in, efficient=True)
    with pytest.raises(ValueError, match="object has no spec that tells its image size: give image_size"):
        zoo.measure(object(), stand_in)


@pytest.mark.parametrize(
    ("where", "kind", "words"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, not 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer"),
        ({"batch_size": None}, TypeError, "batch_size must be an integer"),
        ({"image_size": -1}, ValueError, "image_size must be at least 1, not -1"),
        ({"image_size": True}, TypeError, "image_size must be an integer"),
        ({"device": "gpu"}, ValueError, "device must be cpu, cuda or cuda:<number>, not 'gpu'"),
        ({"device": "cuda:9"}, ValueError, "only 2 GPUs are visible"),
    ],
)
def test_measure_refuses_impossible_sizes_and_devices(
    stand_in: str, where: dict[str, Any], kind: type, words: str
) -> None:
    with pytest.raises(kind, match=words):
        zoo.measure("densenet121", stand_in, **where)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.quick
def test_the_command_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "list", "--family", "densenet") == (0, "\n".join(VARIANTS) + "\n", "")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("lits",), "zoo: unknown command 'lits': did you mean list?"),
        (("list", "--family", "gru"), "zoo list: unknown family 'gru'"),
        (("measure",), "zoo measure: name the model to measure"),
        (("measure", "densnet121"), "did you mean densenet121"),
        (("measure", "densenet121", "--eficient"), "did you mean --efficient?"),
        (("measure", "densenet121", "--batch_size", "many"), "--batch_size needs an integer, not 'many'"),
        (("measure", "densenet121", "--batch-size", "0"), "batch_size must be at least 1"),
        (("measure", "densenet121", "--opt_memory", "7"), "opt_memory must be one of 0, 1, 2, 3, 4"),
        (("measure", "densenet121", "--framework", "touch"), "did you mean torch?"),
        (("measure", "densenet121", "--compare", "--opt_memory", "0"), "give it without memory flags"),
        (("doctor", "--verbose"), "zoo doctor: unknown flag --verbose: this command takes no flags"),
        (("doctor", "torch"), "'torch' belongs to no flag: this command takes no flags"),
        (("measure", "densenet121", "--image_size", "7"), "batch_size=64 the smallest that works is 29"),
        (("measure", "densenet121", "--image_size", "2", "--batch_size", "1"), "the smallest that works is 61"),
        (("measure", "densenet_bc_40_12", "--image_size", "3"), "the smallest that works is 4"),
        (("measure", "densenet121", "--batch_size", f"1{'0' * 30}"), "more than any machine holds"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not err.startswith("zoo measure: measure:")


def test_help_and_list_work_without_any_framework() -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'tensorflow', 'mxnet'])); import runpy\n"
    code += "sys.argv[0] = 'zoo'; runpy.run_module('zoo', run_name='__main__')"
    for arguments, status, words in (
        (["list"], 0, "densenet264"),
        (["--help"], 0, "zoo measure"),
        (["measure", "--help"], 0, "--keep_bottleneck"),
        ([], 2, "usage: zoo COMMAND"),
        (["doctor"], 0, "No framework is installed"),
        (["measure", "densenet121"], 2, "memory-efficient-zoo[torch]"),
    ):
        done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
        assert words in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


def test_help_names_every_flag_and_its_default() -> None:
    for name, command in COMMANDS.items():
        lines = help_text(name).splitlines()
        for flag in flags_of(command):
            line = next(line for line in lines if line.startswith(f"  --{flag.name} "))
            assert f"(default {flag.default})" in line or flag.default is None
    assert "--batch_size INT              images (default 64)" in help_text("measure")


@pytest.mark.quick
def test_the_command_measures(
    capsys: pytest.CaptureFixture[str], stand_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("measure", "densenet_bc_40_12", "--framework", stand_in, "--batch-size", "2")
    status, out, _ = run(capsys, *words, "--efficient", "--rows")
    assert status == 0
    assert out.startswith("densenet_bc_40_12, efficient: one training step, input 2 x 3 x 32 x 32")
    assert "stem" in out
    assert "stem" not in run(capsys, *words)[1]
    table = run(capsys, *words, "--compare")[1].splitlines()
    assert [line.split()[0] for line in table[2:-1]] == ["plain", "efficient", "efficient", "efficient"]
    words = ("measure", "resnet20", "--framework", stand_in, "--batch-size", "2")
    table = run(capsys, *words, "--compare")[1].splitlines()
    assert [line.split()[0] for line in table[2:-1]] == ["plain", "efficient", "efficient", "efficient"]
    assert table[-2].split()[2] == "0.10x"


def test_interrupting_is_exit_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **flags: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zoo, "measure", interrupt)
    assert run(capsys, "measure", "densenet121") == (130, "", "")


@needs_torch
def test_create_model_builds_a_torch_model() -> None:
    import torch

    from pytorch_models import DenseNet

    model = zoo.create_model("densenet_bc_40_12", efficient=True, num_classes=7, **TINY)
    assert isinstance(model, DenseNet)
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 7)


@needs_torch
def test_measure_runs_a_torch_step() -> None:
    plain, efficient = (
        zoo.measure("densenet_bc_40_12", batch_size=16, efficient=flag, block_config=(4, 4)) for flag in (False, True)
    )
    assert efficient.saved_bytes < plain.saved_bytes / 4
    assert efficient.peak_bytes < plain.peak_bytes / 2
    assert plain.input_shape == (16, 3, 32, 32)
    assert plain.step_seconds is not None
    assert plain.step_seconds > 0
    assert plain.rows
    assert abs(sum(plain.parts.values()) - plain.peak_bytes) <= 0.05 * plain.peak_bytes
