"""Compression inside mmengine's Runner, Lightning's and Hugging Face's Trainer, as their users write it."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = ROOT / "examples" / "mmengine"
WHY = "{} is no dependency: make test-full installs it and runs this"


def run_train(tmp_path: Path, *changes: str, processes: int = 1) -> str:
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        changes = (*changes, "launcher=pytorch")
    command = [
        *launcher, str(EXAMPLES / "train.py"), str(EXAMPLES / "zoo_resnet20_mnist5k.py"), f"work_dir={tmp_path}",
        "train_dataloader.dataset.limit=64", "train_dataloader.batch_size=16", "train_cfg.max_epochs=1",
        "default_hooks.logger.interval=1", *changes,
    ]  # fmt: skip
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout + found.stderr


def test_mmengine_trains_a_config_file(tmp_path: Path) -> None:
    pytest.importorskip("mmengine", reason=WHY.format("mmengine"))
    told = run_train(tmp_path)
    assert "compressed L3: 2.0" in told or "compressed L3: 1." in told
    assert "loss:" in told
    from pytorch_models.adapters.mmengine_hook import CompressionHook, ZooClassifier

    saved = torch.load(tmp_path / "epoch_1.pth", weights_only=False)
    hook, runner = CompressionHook("L3"), SimpleNamespace(model=ZooClassifier("resnet20", num_classes=10))
    hook.before_run(runner)
    hook.after_load_checkpoint(runner, saved)
    assert runner.model.compression.steps == saved["compression"][0]["steps"] == 3


@pytest.mark.slow
def test_mmengine_trains_in_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("mmengine", reason=WHY.format("mmengine"))
    assert "compressed L3" in run_train(tmp_path, processes=2)


def test_mmlabs_hook_watches_a_runners_model(tmp_path: Path) -> None:
    pytest.importorskip("mmengine", reason=WHY.format("mmengine"))
    from mmengine.runner import Runner

    from pytorch_models.adapters.mmengine_hook import ActNNHook, ZooClassifier
    from pytorch_models.compressed import Controller

    installed = []

    class Probe(ActNNHook):
        def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
            assert isinstance(self.controller, Controller)
            installed.append((self.controller.is_installed, self.controller.bits, len(self.controller.kept())))
            super().after_train_iter(runner, *args, **kwargs)

    model, data = (
        ZooClassifier("resnet20", num_classes=10),
        [(torch.randn(3, 32, 32), index % 10) for index in range(16)],
    )
    runner = Runner(
        model, str(tmp_path), train_dataloader={"batch_size": 8, "dataset": data, "sampler": {"type": "DefaultSampler"},
        "collate_fn": {"type": "default_collate"}}, train_cfg={"by_epoch": True, "max_epochs": 1},
        optim_wrapper={"optimizer": {"type": "SGD", "lr": 0.01}}, custom_hooks=[Probe(default_bit=2)],
        experiment_name="probe",
    )  # fmt: skip
    runner.train()
    assert [entry[:2] for entry in installed] == [(True, 2)] * 2
    assert "forward" not in vars(model)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*_*.py")), ids=lambda path: path.stem)
def test_example_configs_name_hooks_that_exist(path: Path) -> None:
    """Those for mmpretrain, mmdet and mmseg, which are not installed here, are parsed alone."""
    values = {
        node.targets[0].id: node.value for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)
    }
    found = eval(compile(ast.Expression(values["custom_hooks"]), str(path), "eval"), {"dict": dict})
    assert found[0]["type"].split(".")[-1] in ("CompressionHook", "ActNNHook")
    if importlib.util.find_spec("mmengine"):
        from pytorch_models.adapters import mmengine_hook

        options = {key: value for key, value in found[0].items() if key != "type"}
        getattr(mmengine_hook, found[0]["type"].split(".")[-1])(**options)


def test_lightning_trains(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason=WHY.format("lightning"))
    from pytorch_models.adapters.lightning_callback import CompressionCallback

    class Digits(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.losses = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), []

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            self.losses.append(loss.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 0.01)

    targets = torch.arange(64) % 10
    data = torch.utils.data.TensorDataset(F.one_hot(targets, 64).float() + torch.randn(64, 64) / 10, targets)

    def fit(path: Path | None = None) -> tuple[Any, Any]:
        module = Digits()
        trainer = lightning.Trainer(
            max_epochs=8, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[CompressionCallback("L3")],
        )  # fmt: skip
        trainer.fit(module, torch.utils.data.DataLoader(data, 16), ckpt_path=path)
        return module, trainer

    module, trainer = fit()
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    assert fit(tmp_path / "a.ckpt")[0].model.compression.steps == module.model.compression.steps > 0
    assert type(module.model[0]).__name__ == "QLinear"
    assert module.losses[-1] < module.losses[0] / 2


@pytest.mark.parametrize("scheme", ["gact:4", "L3"])
def test_huggingfaces_trainer_trains_beside_our_kernels(scheme: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason=WHY.format("transformers"))
    pytest.importorskip("accelerate", reason=WHY.format("accelerate"))
    import kernels
    from pytorch_models.adapters.transformers_callback import CompressionCallback

    assert Path(str(kernels.__file__)).is_relative_to(ROOT)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=2
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config)
    data = [{"input_ids": torch.full((16,), 5 + index % 2), "labels": index % 2} for index in range(32)]
    arguments = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=6, per_device_train_batch_size=8, learning_rate=3e-3, report_to=[],
        save_strategy="epoch", save_total_limit=1, use_cpu=True, logging_steps=4, disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(model, arguments, train_dataset=data, callbacks=[CompressionCallback(scheme)])
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0] / 2
    assert (type(model.classifier).__name__ == "QLinear") == (scheme == "L3")
    if scheme == "L3":
        other = transformers.BertForSequenceClassification(config)
        CompressionCallback(scheme).on_train_begin(arguments, trainer.state, None, model=other)
        assert other.compression.steps == model.compression.steps > 0
