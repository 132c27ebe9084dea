"""Commands that pages and benchmarks name have the flags they are given, and those that train are run in short."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from zoo.__main__ import COMMANDS, main
from zoo.bench import find
from zoo.flags import flags_of, parse
from zoo.frameworks import FRAMEWORKS, why_missing

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import demo  # noqa: E402

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BENCHMARKS = sorted((ROOT / "benchmarks").glob("*.py"))
STARTS = (
    r"(?:python (?:-m zoo|-m \w+\.launch .*demo\.py|demo\.py|benchmarks/)"
    r"|zoo (?:measure|plan|bench|list|support)\b|torchrun )"
)


def commands_of(text: str) -> list[list[str]]:
    """Commands in blocks of shell, in backquotes and on lines of their own; without comments and optional parts."""
    lines = [line.strip().removeprefix("Run: ") for line in re.sub(r"\\+\n\s*", " ", text).splitlines()]
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [re.split(r"\s{2,}|#", one)[0].strip() for one in (*lines, *quoted) if re.match(STARTS, one)]
    return [shlex.split(re.sub(r"[\[\]]|\.\.\.", "", one)) for one in dict.fromkeys(found)]


def wrong_with(words: list[str]) -> str:
    """What a command would be refused for before it begins; "" = nothing."""
    script = next((one for one in words if one.endswith(".py")), None)
    if script is not None and script != "demo.py":
        source = (ROOT / script).read_text(encoding="utf-8")
        flags = [one for one in words if one.startswith("--")]
        return ", ".join(flag for flag in flags if f'"{flag}"' not in source)
    if script is None:
        name, *rest = words[words.index("zoo") + 1 :] or ["list"]
        taken = flags_of(COMMANDS[name]) if name in COMMANDS else ()
    else:
        name, rest, taken = "demo.py", words[words.index(script) + 1 :], flags_of(demo.demo)
    try:
        given = parse([one for one in rest if one not in ("--help", "TABLE")], taken)
        if name == "bench" and given.get("table"):
            find(str(given["table"]))
    except ValueError as error:
        return str(error)
    return ""


ALL = [(page, words) for page in (*PAGES, *BENCHMARKS) for words in commands_of(page.read_text(encoding="utf-8"))]


@pytest.mark.quick
def test_commands_that_pages_name_have_their_flags() -> None:
    assert len(ALL) > 60
    assert [f"{page.name}: {shlex.join(words)}: {wrong}" for page, words in ALL if (wrong := wrong_with(words))] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("`python -m zoo bench cafe`", "did you mean caffe?"),
        ("```sh\npython demo.py --epochs 3  # short\n```", "did you mean --n_epochs?"),
        ("Run: python benchmarks/kernels.py [--mb 3]", "--mb"),
    ],
)
def test_a_wrong_command_is_noticed(text: str, message: str) -> None:
    (words,) = commands_of(text)
    assert message in wrong_with(words)


@pytest.mark.parametrize("words", [words[3:] for _, words in ALL if words[:4] == ["python", "-m", "zoo", "list"]])
def test_lists_that_pages_name_are_printed(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert len(capsys.readouterr().out.splitlines()) > 3


def test_a_benchmarks_file_is_checked_before_its_work(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/kernels.py", "--csv", str(tmp_path / "none" / "rows.csv")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "none/rows.csv cannot be written (No such file or directory): give another file" in done.stderr
    with_types = [path.name for path in BENCHMARKS if '"--csv"' in path.read_text(encoding="utf-8")]
    checked = [path.name for path in BENCHMARKS if '"--csv", type=new_csv' in path.read_text(encoding="utf-8")]
    assert checked == with_types


TRAINING = sorted({shlex.join(words) for _, words in ALL if "demo.py" in words and "--help" not in words})
SHORT = {"--data": "digits", "--n_epochs": "1", "--valid_size": "1300"}  # some hundred small images


def shortened(line: str, folder: Path) -> list[str]:
    """The command, but for how long it trains, on what, and where in `folder` it saves."""
    words = shlex.split(line)
    place = words.index("demo.py") + 1
    flags = dict(zip(words[place::2], words[place + 1 :: 2], strict=True)) | SHORT
    if "--save" in flags:
        flags["--save"] = str(folder / Path(flags["--save"]).name)
    start = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}[words[0]]
    return [*start, *words[1:place], *(word for pair in flags.items() for word in pair)]


def test_commands_are_found_and_shortened(tmp_path: Path) -> None:
    assert len(TRAINING) >= 15
    begun = [line for line in TRAINING if "--save runs/x" in line and "--resume" not in line]
    assert begun, "a run that is resumed is begun by another line"
    line = "torchrun --nproc-per-node 2 demo.py --data cifar10 --save runs/z"
    made = shortened(line, tmp_path)
    assert made[1:6] == ["-m", "torch.distributed.run", "--nproc-per-node", "2", "demo.py"]
    assert made[6:] == shlex.split(f"--data digits --save {tmp_path / 'z'} --n_epochs 1 --valid_size 1300")


@pytest.mark.slow
@pytest.mark.parametrize("line", TRAINING)
def test_training_commands_run(line: str, tmp_path: Path) -> None:
    framework = next((name for name in FRAMEWORKS if f"--framework {name}" in line), "torch")
    missing = why_missing(FRAMEWORKS[framework])
    if missing is not None:
        pytest.skip(missing)
    lines = [line]
    if "--resume" in line:
        lines.insert(0, line.replace(" --resume True", ""))
    for one in lines:
        done = subprocess.run(shortened(one, tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        assert "test    loss" in done.stdout or (one != lines[0] and "nothing is left to do" in done.stdout)


# Each on the smallest that it takes: what is asked is whether it still runs.
SMALLEST = (
    "convergence.py --seeds 1 --epochs 1 --depth 10 --limit 128 --batch 32 --schemes 2",
    "densenet_time.py --batch 2 --steps 1",
    "densenet_torch.py --batch 2 --rounds 1 --steps 1",
    "gradient_noise.py --runs 2 --schemes 2 L3 --batch 4",
    "image_models_torch.py --models mobilenet_v2_035 --batch 2 --timed-batch 1 --image-size 64 --repeats 1",
    "kernels.py --backend cpu --mib 1 --repeats 1 --only pack",
    "lstm_torch.py --steps 32 --repeats 1",
    "mxnet_memory.py --only mobilenet --ntrial 1 --workers 1",
    "plan_frameworks.py --framework mxnet --budgets 0.7",
    "planner.py --models lstm_pixel_mnist --budgets 0.5 --times counted",
    "tensorflow_models.py resnet20 --batch 16 --mode graph --repeats 1 --policies efficient",
)


@pytest.mark.slow
@pytest.mark.parametrize("line", SMALLEST)
def test_benchmarks_run(line: str) -> None:
    done = subprocess.run(
        [sys.executable, *shlex.split(f"benchmarks/{line}")], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 4, done.stdout


def test_every_benchmark_is_among_them() -> None:
    with_main = {path.name for path in BENCHMARKS if '__name__ == "__main__"' in path.read_text(encoding="utf-8")}
    assert {line.partition(" ")[0] for line in SMALLEST} == with_main
