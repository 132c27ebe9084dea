"""The training command: what it refuses before it starts, what its help says, and what flags mean together."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from zoo.command import how_to_install
from zoo.experiment import complete, find_network, plan
from zoo.flags import flags_of
from zoo.options import RefusedOptionError
from zoo.run_folder import RunFolderError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
import demo  # noqa: E402

DEFAULTS = {flag.name: flag.default for flag in flags_of(demo.demo)}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "demo.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


REFUSED = [
    ("--dept 40", "unknown flag --dept; did you mean --depth?"),
    ("--epochs 3", "did you mean --n_epochs?"),
    ("--depth abc", "--depth needs an integer, not 'abc'"),
    ("--depth 41", "the nearest are 40 and 46"),
    ("--depth 4 --data synthetic", "the nearest are 10 and 16"),
    ("--efficient maybe", "--efficient needs True or False, not 'maybe'"),
    ("--model densenet_121", "did you mean densenet121"),
    ("--model densenet121 --growth_rate 8", "leave out --growth_rate"),
    ("--model resnet55", "did you mean resnet56"),
    ("--model resnet56 --depth 20", "leave out --depth"),
    ("--model resnet56 --drop_rate 0.1", "resnet56 has no dropout"),
    ("--model mobilenet_v2 --opt_memory 3", "the levels are DenseNet's; give efficient=True"),
    ("--framework pytorch", "unknown framework 'pytorch': did you mean torch?"),
    ("--data cifar1O", "did you mean cifar10"),
    ("--data ./no/such/folder", "no/such/folder"),
    ("--opt_memory 5", "opt_memory must be one of 0, 1, 2, 3, 4, not 5"),
    ("--opt_memory 3 --efficient True", "both say what to keep"),
    ("--data synthetic --keep_bottleneck True", "changes nothing without efficient=True"),
    ("--bottleneck False --bn_size 4", "contradict one another"),
    ("--bn_size 0", "--bottleneck False"),
    ("--compression 2", "compression must be in (0, 1], not 2.0"),
    ("--drop_rate 1", "drop_rate must be in [0, 1)"),
    ("--lr 0", "lr must be above 0"),
    ("--lr nan", "--lr needs a finite number, not 'nan'"),
    ("--wd -1", "wd must be a finite number, not negative"),
    ("--data digits --valid_size 5000", "digits has 1442 train images; give a valid_size from 0 to 1441"),
    ("--momentum 1", "momentum must be in [0, 1)"),
    ("--n-epochs 0", "n_epochs must be at least 1"),
    ("--batch_size -3", "batch_size must be at least 1"),
    ("--valid_size -1", "valid_size must be at least 0"),
    ("--seed -1", "seed must be at least 0"),
    (f"--seed 1{'0' * 400}", "seed must be below 2**63"),
    (f"--batch_size=-1{'0' * 400}", "batch_size must be at least 1"),
    ("--device gpu", "device must be auto, cpu, cuda or cuda:<number>, not 'gpu'"),
    ("--resume", "resume=True needs save="),
    ("--save SAVE --resume", "nothing to resume"),
    ("--save OLD", "already holds a run (config.json)"),
    ("--save FILE/run", "cannot write there"),
    ("--save=", "save is empty"),
]
# What a framework does not offer: with data that is not there and is not looked for.
NOT_OFFERED = [
    ("mxnet", "--amp True", "amp=True: mixed precision is not offered in MXNet"),
    ("mxnet", "--save SAVE --tensorboard True", "tensorboard=True: not offered in MXNet"),
    ("mxnet", "--opt_memory 3", "opt_memory=3: the classic levels are of PyTorch's DenseNet"),
    ("mxnet", "--compressed L3", "compressed=L3: MXNet has no schemes"),
    ("mxnet", "--model lstm --compressed 2", "compressed=2: an LSTM keeps no codes in MXNet"),
    ("mxnet", "--model lstm --budget 0.5", "budget=0.5: the time steps of an LSTM are no blocks"),
    ("mxnet", "--cuda_graphs True", "cuda_graphs=True: CUDA graphs are PyTorch's"),
    ("mxnet", "--sync_batchnorm True", "sync_batchnorm=True: norms over several processes are PyTorch's"),
    ("mxnet", "--fp16 True", "fp16=True: float16 is not offered in MXNet"),
    ("mxnet", "--horovod True", "horovod=True: Horovod is TensorFlow's here"),
    ("torch", "--fp16 True", "fp16=True: PyTorch chooses the type"),
    ("torch", "--horovod True", "horovod=True: Horovod is TensorFlow's here"),
    ("tensorflow", "--amp True --fp16 True", "amp=True and fp16=True contradict one another"),
    ("tensorflow", "--opt_memory 3", "opt_memory=3: the classic levels are of PyTorch's DenseNet"),
    ("tensorflow", "--cuda_graphs True", "cuda_graphs=True: CUDA graphs are PyTorch's"),
    ("tensorflow", "--sync_batchnorm True", "sync_batchnorm=True: norms over several processes are PyTorch's"),
]
REFUSED += [(f"--framework {name} --data cifar10 --data_dir SAVE {flags}", words) for name, flags, words in NOT_OFFERED]


@pytest.mark.quick
def test_everything_wrong_is_refused_before_a_framework_is_imported(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    (tmp_path / "file").write_text("")
    places = {"SAVE": tmp_path / "new", "OLD": tmp_path / "old", "FILE": tmp_path / "file"}
    lines = []
    for line, _ in REFUSED:
        for word, place in places.items():
            line = line.replace(word, str(place))
        lines.append(line.split())
    program = (
        "import contextlib, io, json, sys; import demo\n"
        "heavy = {'torch', 'tensorflow', 'keras', 'mxnet', 'matplotlib'}\n"
        "def run(line):\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): code = demo.main(line)\n"
        "    return code, out.getvalue(), err.getvalue(), bool(heavy & set(sys.modules))\n"
        "print(json.dumps([run(line) for line in json.load(sys.stdin)]))\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, input=json.dumps(lines), capture_output=True, text=True, timeout=60)
    answers = json.loads(done.stdout) if done.returncode == 0 else pytest.fail(done.stderr)
    for (line, message), (code, out, err, imported) in zip(REFUSED, answers, strict=True):
        assert message in err, line
        assert (code, out, imported) == (2, "", False), line
        assert err.startswith("demo.py: "), line
        assert err.count("\n") == 1, line
        assert "Traceback" not in err, line
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "file", "old"]


@pytest.mark.quick
def test_help_is_quick_complete_and_tells_the_defaults_of_the_code() -> None:
    begin = time.perf_counter()
    done = run("--help")
    assert time.perf_counter() - begin < 2
    assert (done.returncode, done.stderr) == (0, "")
    shown = dict(re.findall(r"^  --(\w+) .*\(default (.*)\)$", done.stdout, re.MULTILINE))
    assert list(shown) == list(DEFAULTS)
    with_data = complete({"data": "cifar10"}, DEFAULTS)
    bare = complete({}, DEFAULTS)
    resolved = {"depth": "100", "growth_rate": "12", "bottleneck": "True", "save": "nothing is saved"}
    for name, text in shown.items():
        usual, _, without_data = text.partition("; ")
        if with_data[name] is not None and name != "data":
            assert usual == str(with_data[name]), name
        elif name in resolved:
            assert usual == resolved[name], name
        expected = f"{bare[name]} when --data is omitted" if bare[name] != with_data[name] and name != "data" else ""
        assert without_data == expected, name
    network = find_network(with_data)
    assert (sum(network.block_config), network.growth_rate) == ((100 - 4) // 2, 12)


@pytest.mark.quick
def test_what_flags_mean_together() -> None:
    bare = plan(complete({}, DEFAULTS))
    assert (bare.data, bare.policy.efficient, bare.compare, bare.config.block_config) == (
        "mnist5k",
        True,
        True,
        (3, 3, 3),
    )
    usual = plan(complete({"data": "cifar10"}, DEFAULTS))
    assert (usual.policy.efficient, usual.compare, usual.config.block_config) == (False, False, (16, 16, 16))
    level = plan(complete({"opt_memory": 3}, DEFAULTS))
    assert (level.policy.efficient, level.policy.opt_memory) == (False, 3)
    named = plan(complete({"model": "densenet121", "drop_rate": 0.1}, DEFAULTS))
    assert (named.config.block_config, named.config.drop_rate) == ((6, 12, 24, 16), 0.1)
    residual = plan(complete({"model": "resnet56", "efficient": True}, DEFAULTS))
    assert (residual.config.layers, residual.config.shortcut, residual.policy.efficient) == ((9, 9, 9), "padding", True)
    assert plan(complete({"model": "mobilenet_v2"}, DEFAULTS)).config.drop_rate == 0.2
    assert plan(complete({"model": "mobilenet_v2", "drop_rate": 0.0}, DEFAULTS)).config.drop_rate == 0.0
    plain = plan(complete({"bottleneck": False, "depth": 40}, DEFAULTS))
    assert (plain.config.bn_size, plain.config.compression, plain.config.block_config) == (0, 1.0, (12, 12, 12))


@pytest.mark.quick
def test_validation_images_are_at_most_a_tenth_unless_said() -> None:
    experiment = plan(complete({"data": "synthetic"}, DEFAULTS))
    data = experiment.load_data()
    assert experiment.with_data(data, None).options.valid_size == len(data.train_labels) // 10
    assert experiment.with_data(data, 7).options.valid_size == 7


@pytest.mark.quick
def test_a_resumed_run_has_the_flags_it_was_started_with(tmp_path: Path) -> None:
    flags = {**DEFAULTS, "data": "digits", "depth": 16, "lr": 0.3, "save": "elsewhere"}
    (tmp_path / "config.json").write_text(json.dumps({"flags": flags}))
    values = complete({"save": str(tmp_path), "resume": True}, DEFAULTS)
    assert values == {**flags, "save": str(tmp_path), "resume": True}
    assert complete({"save": str(tmp_path), "resume": True, "lr": 0.1}, DEFAULTS)["lr"] == 0.1
    (tmp_path / "last.pt").write_text("")
    with pytest.raises(RunFolderError, match=r"depth was 16, now 22; lr was 0\.3, now 0\.1"):
        plan(complete({"save": str(tmp_path), "resume": True, "lr": 0.1, "depth": 22}, DEFAULTS))


@pytest.mark.quick
def test_missing_files_offline_are_named_quickly(tmp_path: Path) -> None:
    begin = time.perf_counter()
    line = ["--data", "cifar10", "--data_dir", str(tmp_path), "--download", "False", "--save", str(tmp_path / "run")]
    done = run(*line)
    assert time.perf_counter() - begin < 5
    assert (done.returncode, done.stdout) == (1, "")
    for part in ("cifar-10-python.tar.gz", str(tmp_path), "c58f30108f718f92721af3b95e74349a", "mnist5k"):
        assert part in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.quick
@pytest.mark.parametrize(
    ("absent", "words"),
    [("torch", "torch is not installed: "), ("fire", "fire is not installed: "), ("matplotlib", "needs matplotlib")],
)
def test_a_missing_package_is_named(tmp_path: Path, absent: str, words: str) -> None:
    program = (
        "import importlib.util, sys; find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *rest: None if name == {absent!r} else find(name, *rest)\n"
        f"sys.modules[{absent!r}] = None; sys.prefix = {str(ROOT / '.venv')!r}\n"
        "import demo; sys.exit(demo.main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", program, "--data", "synthetic", "--save", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert words in done.stderr
    assert f"in {ROOT}, run `make demo`, or `pip install -c constraints.txt" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.quick
def test_positional_data_and_save_still_work() -> None:
    assert list(DEFAULTS)[:2] == ["data", "save"]
    assert [flag.name for flag in flags_of(demo.demo) if flag.positional] == ["data", "save"]


@pytest.mark.quick
def test_a_venv_that_has_everything_is_named_first(tmp_path: Path) -> None:
    assert how_to_install(tmp_path).startswith(f"in {tmp_path}, run `make demo`, or `pip install -c constraints.txt -e")
    packages = tmp_path / ".venv" / "lib" / "python3.12" / "site-packages"
    for name in ("fire", "torch", "matplotlib"):
        (packages / name).mkdir(parents=True)
    (tmp_path / ".venv" / "bin").mkdir()
    (tmp_path / ".venv" / "bin" / "python").write_text("")
    assert how_to_install(tmp_path).startswith("run it as `.venv/bin/python demo.py ...`")
    (packages / "fire").rmdir()
    assert "make demo" in how_to_install(tmp_path)


@pytest.mark.quick
def test_one_way_to_save_memory_clears_a_resumed_runs_other_one(tmp_path: Path) -> None:
    def resumed(saved: dict[str, object], **given: bool | int) -> tuple[object, ...]:
        flags = {**DEFAULTS, "data": "digits", **saved}
        (tmp_path / "config.json").write_text(json.dumps({"flags": flags}))
        policy = plan(complete({"save": str(tmp_path), "resume": True, **given}, DEFAULTS)).policy
        return policy.efficient, policy.keep_bottleneck, policy.opt_memory

    assert resumed({"opt_memory": 3}) == (False, False, 3)
    assert resumed({"opt_memory": 3}, efficient=True) == (True, False, None)
    assert resumed({"efficient": True, "keep_bottleneck": True}, opt_memory=2) == (False, False, 2)
    assert resumed({"efficient": True, "keep_bottleneck": True}, efficient=False) == (False, False, None)
    assert resumed({"efficient": True}, keep_bottleneck=True) == (True, True, None)
    with pytest.raises(ValueError, match="both say what to keep"):
        resumed({}, efficient=True, opt_memory=3)


@pytest.mark.quick
def test_paths_of_data_are_kept_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "cifar-10-batches-bin").mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (tmp_path / "mine" / "cifar-10-batches-bin" / f"{name}.bin").write_bytes(bytes(3073))
    monkeypatch.chdir(tmp_path)
    settings = plan(complete({"data": "mine", "data_dir": "files"}, DEFAULTS)).options.settings()
    assert (settings["data"], settings["data_dir"]) == (str(tmp_path / "mine"), str(tmp_path / "files"))
    assert plan(complete({"data": "digits"}, DEFAULTS)).options.settings()["data"] == "digits"


def test_a_launchers_variables_that_make_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "first", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    done = run("--data", "digits")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "demo.py: the launcher's variable RANK must be a number, not 'first'\n"


def test_a_launcher_that_a_framework_knows_nothing_of(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    asked = {"framework": "mxnet", "data": "digits", "batch_size": 1}
    with pytest.raises(RefusedOptionError, match=r"start MXNet's processes with python -m mxnet_memonger\.launch"):
        plan(complete(asked, DEFAULTS))
    monkeypatch.setenv("DMLC_ROLE", "worker")
    with pytest.raises(RefusedOptionError, match="batch_size=1: less than one input"):
        plan(complete(asked, DEFAULTS))


def test_a_gpu_that_is_not_there_is_refused_before_data_is_looked_at(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'memory-efficient-zoo[torch]'")
    done = run("--data", "cifar10", "--data_dir", str(tmp_path), "--download", "False", "--device", "cuda:99")
    assert done.returncode == 2
    assert "device=cuda:99" in done.stderr
    assert "cifar" not in done.stderr
    assert "Traceback" not in done.stderr
