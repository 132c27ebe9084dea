"""Train a memory-efficient network from the command line; without a flag, a small one on real handwritten digits."""

from __future__ import annotations

import sys
from types import ModuleType

from zoo import command, frameworks
from zoo.data.image_data import ImageData
from zoo.experiment import Experiment, complete, defaults_for_help, plan
from zoo.options import TrainingOptions, TrainingResult
from zoo.policy import MemoryPolicy
from zoo.report import MemoryReport, format_comparison, plot_training
from zoo.run_folder import METRICS

PICTURE = "training.png"
EXAMPLES = """\
  python demo.py                                                    about two minutes, no download
  python demo.py --efficient True --data cifar10 --save runs/x      DenseNet-BC-100 (k=12) as published
  python demo.py --efficient True --data folder/with/cifar10 --save runs/y --depth 40
  python demo.py --save runs/x --resume True                        go on with a run that was stopped"""


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
    drop_rate: float = 0.0,
    efficient: bool = MemoryPolicy.efficient,
    keep_bottleneck: bool = MemoryPolicy.keep_bottleneck,
    opt_memory: int | None = MemoryPolicy.opt_memory,
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
    num_workers: int = TrainingOptions.num_workers,
    resume: bool = TrainingOptions.resume,
    tensorboard: bool = TrainingOptions.tensorboard,
    compare: bool = False,
) -> None:
    """Train a network, test it, and print what came out.

    Args:
        data: cifar10, cifar100, svhn, mnist5k, digits, synthetic, or a folder or tar file with CIFAR-10
        save: folder for checkpoints, metrics.csv, config.json and a picture of loss and memory
        framework: torch
        model: densenet (of the shape below), or a published one by its name (python -m zoo list)
        depth: layers: 6n+4 with bottlenecks, 3n+4 without
        growth_rate: channels every layer adds
        bottleneck: 1x1 convolutions before the 3x3 ones (DenseNet-BC)
        compression: channels kept by a transition, as a fraction
        bn_size: width of a bottleneck, times growth_rate
        drop_rate: dropout after each layer
        efficient: keep features once, recompute what is cheap: same numbers, much less memory
        keep_bottleneck: with --efficient, keep the 1x1 outputs too: more memory, less time
        opt_memory: 0 to 4, one of the five classic levels instead of --efficient
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
        amp: mixed precision
        num_workers: processes that prepare batches
        resume: go on with the run in --save; flags not given are that run's
        tensorboard: write TensorBoard files into --save
        compare: at the end, measure a step of the plain and of the efficient network
    """
    flags = dict(locals())
    with command.expected_errors(command.USAGE):
        experiment = plan(flags)
    with command.expected_errors(command.FAILED):
        images = experiment.load_data()
    with command.expected_errors(command.USAGE):
        experiment = experiment.with_data(images, valid_size)
    framework_package = frameworks.load(framework)
    with command.expected_errors(command.USAGE):
        framework_package.check_device(device, amp)
    framework_package.set_seed(seed)
    network = framework_package.build_model(experiment.config, experiment.policy)
    say_what_starts(experiment, images)
    result = framework_package.train(network, images, experiment.options)
    say_what_came(result)
    comparison = compare_memory(framework_package, experiment, images, result.device) if compare else []
    if result.folder is not None:
        plot_training(result.folder / METRICS, result.folder / PICTURE, comparison)
        print(f"saved   {result.folder}: config.json, {METRICS}, {PICTURE}, best and last checkpoint")


def say_what_starts(experiment: Experiment, images: ImageData) -> None:
    """What is about to be trained, on what, and how."""
    options, config = experiment.options, experiment.config
    held_back = options.valid_size
    print(
        f"data    {images.name}: {len(images.train_labels) - held_back} training, {held_back} validation and "
        f"{len(images.test_labels)} test images, {len(images.classes)} classes"
    )
    blocks = "-".join(map(str, config.block_config))
    print(f"model   DenseNet, blocks {blocks}, growth rate {config.growth_rate}, {experiment.policy}")
    print(f"train   {options.n_epochs} epochs, batch {options.batch_size}, lr {options.lr:g}, seed {options.seed}")


def say_what_came(result: TrainingResult) -> None:
    """The test result, and which epoch's weights it is of."""
    chosen = "the last" if result.best_valid_accuracy is None else "best of validation"
    print(
        f"test    loss {result.test_loss:.4f}, accuracy {100 * result.test_accuracy:.2f} % "
        f"(weights of epoch {result.best_epoch}, {chosen})"
    )


def compare_memory(package: ModuleType, experiment: Experiment, images: ImageData, device: str) -> list[MemoryReport]:
    """Measure a training step of the same network, plain and with each way to save memory, and print the table."""
    shape = (experiment.options.batch_size, *images.train_images.shape[1:])
    reports = [
        package.measure_step(package.build_model(experiment.config, policy), shape, device=device)
        for policy in (MemoryPolicy(), MemoryPolicy(efficient=True, keep_bottleneck=True), MemoryPolicy(efficient=True))
    ]
    print(f"memory  of one training step of {shape[0]} images ({device}):")
    print(format_comparison(reports))
    return reports


def main(arguments: list[str]) -> int:
    """Run the command; its exit code."""
    return command.run(demo, arguments, complete=complete, examples=EXAMPLES, words=defaults_for_help)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
