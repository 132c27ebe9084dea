"""CIFAR-10 and CIFAR-100 from their official files: a folder, a tar or tar.gz, or a download.

Krizhevsky, "Learning multiple layers of features from tiny images" (2009);
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from zoo.data.archive import read_named_files
from zoo.data.cifar_batches import Batch, decode_binary, decode_pickled
from zoo.data.cifar_layouts import LAYOUTS, CifarLayout, layouts_of, locate, locate_in_path
from zoo.data.download import fetch, missing_message
from zoo.data.image_data import ImageData

# In the order of the labels.
_LABELS = "airplane automobile bird cat deer dog frog horse ship truck"
_FINE_LABELS = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant flatfish
forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale
willow_tree wolf woman worm
"""
CLASSES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cifar10": tuple(_LABELS.split()),
        "cifar100": tuple(_FINE_LABELS.split()),
    }
)
# Per channel, of pixel/255 over the 50,000 train images.
MEAN_STD: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = MappingProxyType(
    {
        "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
        "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    }
)


def load_cifar(
    dataset: str, data_dir: Path, *, download: bool = True, progress: bool = True, url_base: str | None = None
) -> ImageData:
    """CIFAR-10 or CIFAR-100 from `data_dir`, whichever official form lies there; downloaded into it if none does.

    Args:
        dataset: "cifar10" or "cifar100".
        data_dir: holds an official archive or its folder; made if missing and something is downloaded.
        download: False: an error instead of a download.
        progress: write to stderr how far a download is.
        url_base: a mirror instead of the official address.

    Raises:
        FileNotFoundError: the files are missing and cannot be downloaded.
        ConnectionError: a download broke halfway.
        ValueError: truncated, damaged or wrong files, or a wrong checksum.
    """
    layouts = layouts_of(dataset)
    found = locate(data_dir, layouts)
    if found is None:
        archive = layouts[0].archive
        if not download:
            raise FileNotFoundError(missing_message(archive, data_dir, "download=False"))
        found = fetch(archive, data_dir, url_base=url_base, progress=progress)
    return read_cifar(found, layouts)


def load_cifar_path(path: Path) -> ImageData:
    """CIFAR-10 (or CIFAR-100, if that is what the files are) from the folder or archive `path`; nothing is downloaded.

    Raises:
        FileNotFoundError: no such path, or no CIFAR files there.
        ValueError: truncated, damaged or wrong files.
    """
    return read_cifar(locate_in_path(path), LAYOUTS)


def read_cifar(path: Path, layouts: Sequence[CifarLayout]) -> ImageData:
    """The first of `layouts` whose files are all in the folder or archive `path`. The number of images is free.

    Raises:
        FileNotFoundError: no such path.
        ValueError: naming the file, what came and what was needed.
    """
    owners = {name: layout for layout in layouts for name in layout.files}
    batches: dict[str, Batch] = {}
    try:
        for name, content in read_named_files(path, owners):
            batches[name] = _decode(content, owners[name], f"{path}: {name}")
        layout = _complete_layout(path, layouts, batches)
        train = [batches[name] for name in layout.train]
        sizes = [len(labels) for _, labels in train]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"{path}: the files {layout.train[0]} ... {layout.train[-1]} have {sizes} images; needed is the same "
                "number in each (10,000 in the official ones): one is truncated"
            )
    except ValueError as error:
        raise ValueError(f"{error}. {_advice(path, layouts)}") from error
    mean, std = MEAN_STD[layout.dataset]
    test_images, test_labels = batches[layout.test]
    return ImageData(
        name=layout.dataset,
        train_images=np.concatenate([images for images, _ in train]),
        train_labels=np.concatenate([labels for _, labels in train]),
        test_images=test_images.copy(),  # decoded images may be a read-only view of the file's bytes
        test_labels=test_labels,
        classes=CLASSES[layout.dataset],
        mean=mean,
        std=std,
        augmentation="crop_flip",
    )


def _decode(content: bytes, layout: CifarLayout, where: str) -> Batch:
    hundred = layout.dataset == "cifar100"
    classes = len(CLASSES[layout.dataset])
    if layout.pickled:
        return decode_pickled(content, "fine_labels" if hundred else "labels", classes, where)
    return decode_binary(content, 2 if hundred else 1, classes, where)


def _complete_layout(path: Path, layouts: Sequence[CifarLayout], batches: Mapping[str, Batch]) -> CifarLayout:
    lacking = {layout: [name for name in layout.files if name not in batches] for layout in layouts}
    nearest = min(layouts, key=lambda layout: len(lacking[layout]) / len(layout.files))
    if lacking[nearest]:
        raise ValueError(f"{path} holds no {', '.join(lacking[nearest])}: not the whole of {nearest.dataset}")
    return nearest


def _advice(path: Path, layouts: Sequence[CifarLayout]) -> str:
    """What to do about files that are no good; names the official archive that `path` is or was unpacked from."""
    named = [layout.archive for layout in layouts if path.name in (layout.archive.name, layout.folder)]
    archive = (named or [layouts[0].archive])[0]
    if not named:  # a file of somebody's own: never advise to delete that
        return f"Needed is CIFAR-10's or CIFAR-100's archive, such as {archive.url()} (MD5 {archive.md5})"
    return f"Delete it and download it again: {archive.url()} (MD5 {archive.md5})"
