"""Train a memory-efficient network from the command line; without a flag, a small one on real handwritten digits."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import zoo
from zoo import command, frameworks
from zoo.atomic_write import atomic_write
from zoo.data.text_data import Data, TextData
from zoo.experiment import Experiment, complete, defaults_for_help, plan
from zoo.folder_lock import hold
from zoo.launch import Launch
from zoo.measuring import measure_or_explain
from zoo.options import TrainingOptions, TrainingResult
from zoo.policy import MemoryPolicy, PolicyNotOfferedError, compared_flags
from zoo.progress import count
from zoo.report import MemoryReport, format_comparison, plot_training
from zoo.run_folder import METRICS, read_result

PICTURE, COMPARISON = "training.png", "memory.txt"
EXAMPLES = """\
  python demo.py                                                    about two minutes, no download
  python demo.py --efficient True --data cifar10 --save runs/x      DenseNet-BC-100 (k=12) as published
  python demo.py --efficient True --data folder/with/cifar10 --save runs/y --depth 40
  python demo.py --data cifar10 --model resnet56 --efficient True   a ResNet; python -m zoo list names them all
  python demo.py --save runs/x --resume True                        go on with a run that was stopped
  torchrun --nproc-per-node 4 demo.py --data cifar10 --save runs/z  four processes, a GPU each if there are GPUs"""


def demo(
    data: str = "mnist5k",
    save: str | None = None,
    *,
    framework: str = "torch",
    model: str = "densenet",
    depth: int | None = None,
    growth_rate: int | None = None,
    bottleneck: bool | None = None,
    compression: float | None = None,
    bn_size: int | None = None,
    drop_rate: float | None = None,
    efficient: bool = MemoryPolicy.efficient,
    keep_bottleneck: bool = MemoryPolicy.keep_bottleneck,
    opt_memory: int | None = MemoryPolicy.opt_memory,
    compressed: str | None = None,
    budget: str | None = None,
    data_dir: str = "data",
    download: bool = True,
    valid_size: int | None = None,
    n_epochs: int = TrainingOptions.n_epochs,
    batch_size: int = TrainingOptions.batch_size,
    lr: float = TrainingOptions.lr,
    wd: float = TrainingOptions.wd,
    momentum: float = TrainingOptions.momentum,
    seed: int = TrainingOptions.seed,
    device: str = TrainingOptions.device,
    amp: bool = TrainingOptions.amp,
    fp16: bool = TrainingOptions.fp16,
    horovod: bool = TrainingOptions.horovod,
    sync_batchnorm: bool = TrainingOptions.sync_batchnorm,
    cuda_graphs: bool = TrainingOptions.cuda_graphs,
    num_workers: int = TrainingOptions.num_workers,
    resume: bool = TrainingOptions.resume,
    tensorboard: bool = TrainingOptions.tensorboard,
    compare: bool = False,
) -> None:
    """Train a network, test it, and print what came out.

    Args:
        data: cifar10, cifar100, svhn, mnist5k, digits, seq-mnist, synthetic, text, text:<file>, or a CIFAR-10 folder
        save: folder for checkpoints, metrics.csv, config.json and a picture of loss and memory
        framework: torch, tensorflow or mxnet
        model: densenet (of the shape below), lstm, or a published one such as resnet56 (python -m zoo list)
        depth: layers: 6n+4 with bottlenecks, 3n+4 without
        growth_rate: channels every layer adds
        bottleneck: 1x1 convolutions before the 3x3 ones (DenseNet-BC)
        compression: channels kept by a transition, as a fraction
        bn_size: width of a bottleneck, times growth_rate
        drop_rate: dropout after each layer of a DenseNet, before MobileNetV2's classifier
        efficient: keep little, recompute what is cheap: same numbers, much less memory
        keep_bottleneck: with --efficient, keep every convolution's output: more memory, less time
        opt_memory: 0 to 4, one of the five classic levels instead of --efficient
        compressed: store what is kept in few bits, lossy: 1, 2, 4, 8, fixed:3, half, L3, gact:4, autoquantz
        budget: bytes of a step, 2GiB, or 0.3 of what the plain network needs: a plan decides what is kept, exactly
        data_dir: folder of downloaded data sets
        download: download files that are missing
        valid_size: training images held back to choose the best epoch
        n_epochs: passes over the training images
        batch_size: images per step, over all GPUs together
        lr: learning rate; a tenth of it after 50 % of the epochs, a hundredth after 75 %
        wd: weight decay
        momentum: Nesterov momentum
        seed: every random draw derives from it
        device: auto (every visible GPU, else the CPU), cpu, cuda, or one GPU as cuda:1
        amp: mixed precision, in bfloat16 where the device has it
        fp16: mixed precision in float16 with loss scaling: TensorFlow
        horovod: TensorFlow's processes, started by horovodrun, are joined by Horovod
        sync_batchnorm: several processes normalise with the joint batch's statistics
        cuda_graphs: on one GPU, capture a step once and replay it: saves launches, same numbers
        num_workers: processes that prepare batches
        resume: go on with the run in --save; flags not given are that run's
        tensorboard: write TensorBoard files into --save
        compare: at the end, measure a step of the plain and of the efficient network
    """
    flags = dict(locals())
    with command.expected_errors(command.USAGE):
        experiment = plan(flags)
    if resume and say_if_finished(experiment):
        return
    with command.expected_errors(command.USAGE):
        check_gpu(framework, device, cuda_graphs)
    with command.expected_errors(command.FAILED):
        images = experiment.load_data()
    with command.expected_errors(command.USAGE):
        experiment = experiment.with_data(images, valid_size)
    framework_package = frameworks.load(framework)
    with command.expected_errors(command.USAGE):
        framework_package.check_device(device, amp or fp16)
    joined: dict[str, Any] = {}
    if frameworks.find(framework).joins_first:
        with command.expected_errors(command.USAGE):
            joined["workers"] = framework_package.join_workers(experiment.options)
    framework_package.set_seed(seed)
    with command.expected_errors(command.USAGE):  # flags that the framework does not offer
        network = framework_package.build_model(experiment.config, experiment.policy)
    say_what_starts(experiment, images)
    if experiment.budget is not None:
        keep_within_budget(network, experiment, images)
    with hold(save if Launch.from_environment().is_first else None):
        result = framework_package.train(network, images, experiment.options, **joined)
    say_what_came(result)
    if Launch.from_environment().is_first:
        finish(framework_package, experiment, images, result)
    for workers in joined.values():
        workers.wait()  # TensorFlow calls a process that ends before the others a failure


def finish(package: ModuleType, experiment: Experiment, images: Data, result: TrainingResult) -> None:
    """Draw a run that is saved, compare, and say what lies where."""
    draw(experiment, images.name, result.folder)  # before the comparison, which may fail
    if experiment.compare:
        comparison = compare_memory(package, experiment, images, result.device)
        draw(experiment, images.name, result.folder, comparison)
    if result.folder is not None:
        memory = f", {COMPARISON}" if experiment.compare else ""
        print(f"saved   {result.folder}: config.json, {METRICS}, {PICTURE}{memory}, best and last checkpoint")


def check_gpu(framework: str, device: str, needed: bool = False) -> None:
    """Refuse a GPU that is not there before data is read or downloaded: the one flag that only a framework can check.

    Args:
        framework: that would run on it.
        device: "auto" takes what is there.
        needed: another flag, --cuda_graphs, does nothing without one.

    Raises:
        ValueError: it is not there.
    """
    if device.startswith("cuda") or needed:
        asked = device if device.startswith("cuda") else "cuda"
        try:
            frameworks.load(framework).check_device(asked, False)
        except ValueError as error:
            if asked == device:
                raise
            raise ValueError(f"cuda_graphs=True needs a GPU: leave it out ({error})") from None


def say_if_finished(experiment: Experiment) -> bool:
    """Whether the run to be resumed has nothing left to do: then that is said, and how it ended."""
    options = experiment.options
    save = Path(str(options.save)).expanduser()
    result = read_result(save)
    if result is None or result.get("epochs") != options.n_epochs or not (save / PICTURE).exists():
        return False
    if experiment.compare and not (save / COMPARISON).exists():
        return False
    accuracy = 100 * float(str(result["test_accuracy"]))
    print(
        f"done    {save}: {options.n_epochs} of {count(options.n_epochs, 'epoch')} trained, nothing is left to do; "
        f"test accuracy {accuracy:.2f} % (weights of epoch {result['best_epoch']})"
    )
    return True


def say_what_starts(experiment: Experiment, images: Data) -> None:
    """What is about to be trained, on what, and how."""
    options = experiment.options
    held_back = options.valid_size
    is_text = isinstance(images, TextData)
    kind, classes = ("windows", "different characters") if is_text else ("images", "classes")
    training = len(images.train_labels) - held_back
    print(
        f"data    {images.name}: {training} training, {held_back} validation and "
        f"{len(images.test_labels)} test {kind}, {len(images.classes)} {classes}"
    )
    how = experiment.policy if experiment.budget is None else "planned"
    print(f"model   {experiment.config.in_words()}, {how}")
    epochs = count(options.n_epochs, "epoch")
    print(f"train   {epochs}, batch {options.batch_size}, lr {options.lr:g}, seed {options.seed}")
    if options.batch_size > training:
        print(f"note    batch {options.batch_size} is more than the {training} training {kind}: a step takes them all")


def keep_within_budget(network: Any, experiment: Experiment, images: Data) -> None:
    """Plan the network for the batch it is trained with, carry the plan out, and say what it costs."""
    options = experiment.options
    batch = min(options.batch_size, len(images.train_labels) - options.valid_size)
    shape = (batch, *images.train_inputs.shape[1:])
    with command.expected_errors(command.USAGE):
        # Counted, not timed: a resumed run makes the same plan.
        asked = {"budget": experiment.budget, "times": "counted", "framework": experiment.framework}
        made = zoo.plan(network, shape, **asked, amp=options.mixed_precision, device=options.device)
    made.apply(network)
    print("plan    " + "\n        ".join(made.summary().splitlines()[1:]))


def draw(experiment: Experiment, data: str, folder: Path | None, comparison: Sequence[MemoryReport] = ()) -> None:
    """The picture of a saved run; nothing for a run that is not saved."""
    if folder is not None:
        title = f"{data}: {experiment.config.in_words()}, {experiment.policy} ({folder})"
        plot_training(folder / METRICS, folder / PICTURE, comparison, title)


def say_what_came(result: TrainingResult) -> None:
    """The test result, and which epoch's weights it is of."""
    chosen = "the last" if result.best_valid_accuracy is None else "best of validation"
    is_text = "train_bits_per_character" in result.metrics[-1]
    bits = f" ({result.test_loss / math.log(2):.3f} bits per character)" if is_text else ""
    print(
        f"test    loss {result.test_loss:.4f}{bits}, accuracy {100 * result.test_accuracy:.2f} % "
        f"(weights of epoch {result.best_epoch}, {chosen})"
    )


def compare_memory(package: ModuleType, experiment: Experiment, images: Data, device: str) -> list[MemoryReport]:
    """Measure a training step of the same network, plain and with each way to save memory, and print the table.

    What does not fit is said in a line: the trained network is safe, and the other ways are still measured.
    """
    options = experiment.options
    batch = min(options.batch_size, len(images.train_labels) - options.valid_size)
    shape = (batch, *images.train_inputs.shape[1:])
    reports = []
    for policy in (MemoryPolicy(**flags) for flags in compared_flags(experiment.config)):
        try:
            model = package.build_model(experiment.config, policy)
            reports.append(measure_or_explain(package, model, shape, device))
        except (MemoryError, PolicyNotOfferedError) as error:
            print(f"memory  {policy} is not in the comparison: {error}")
    if reports:
        table = f"memory  of one training step of {count(batch, 'image')} ({device}):\n{format_comparison(reports)}\n"
        print(table, end="")
        if options.save is not None:
            with atomic_write(Path(options.save).expanduser() / COMPARISON) as file:
                file.write(table.encode())
    return reports


def main(arguments: list[str]) -> int:
    """Run the command; its exit code. Of several processes that a launcher started, one speaks."""
    with contextlib.ExitStack() as stack:
        try:
            launch = Launch.from_environment()
        except ValueError as error:
            sys.stderr.write(f"demo.py: {error}\n")
            return command.USAGE
        if not launch.is_first:
            silence = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(contextlib.redirect_stdout(silence))
        return command.run(demo, arguments, complete=complete, examples=EXAMPLES, words=defaults_for_help)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
