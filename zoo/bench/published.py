"""The predecessors' published figures, each once: what `zoo bench` prints beside what it measures.

They are their authors' own, on their machines (mostly GPUs of their year): only ratios to the plain network compare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Published:
    """What somebody reported for one way of training.

    Args:
        megabytes: memory of a step or a process, as they counted it.
        seconds: of a step.
        saved_ratio: saved activations, of the plain network's.
        accuracy: on the test images, in percent.
        bits: a value, on average.
        largest: batch that fits.
        words: what no number says.
    """

    megabytes: float | None = None
    seconds: float | None = None
    saved_ratio: float | None = None
    accuracy: float | None = None
    bits: float | None = None
    largest: int | None = None
    words: str = ""

    def row(self) -> dict[str, Any]:
        """The figures by the keys of a table's columns; those that were not published are left out.

        Example:
            >>> Published(5453, 0.153).row()
            {'published_mb': 5453, 'published_seconds': 0.153, 'published': '5453 MB, 0.153 s'}
        """
        numbers = {
            "published_mb": self.megabytes,
            "published_seconds": self.seconds,
            "published_saved_ratio": self.saved_ratio,
            "published_accuracy": self.accuracy,
            "published_bits": self.bits,
            "published_largest": self.largest,
        }
        found: dict[str, Any] = {key: value for key, value in numbers.items() if value is not None}
        units = (("published_mb", "{:g} MB"), ("published_seconds", "{:g} s"), ("published_largest", "{:,}"))
        words = [pattern.format(found[key]) for key, pattern in units if key in found]
        words += [self.words] if self.words else []
        return {**found, "published": ", ".join(words)} if words else found


NOTHING = Published()
LUATORCH: tuple[Published, ...] = (  # -optMemory 0 to 4
    Published(5453, 0.153),
    Published(3746, 0.153),
    Published(2969, 0.152),
    Published(2188, 0.155),
    Published(1655, 0.175),
)
EFFICIENT_DENSENET_PYTORCH: Mapping[str, Published] = MappingProxyType(  # DenseNet-BC-100, k=12, batch 64
    {"naive": Published(2863, 0.165), "efficient": Published(1605, 0.207)}
)
CAFFE = Published(words="under 2 GB, 6 it/s")
EFFICIENT_DENSENET_TENSORFLOW: Mapping[str, Published] = MappingProxyType(
    {"plain": Published(largest=3750, words="in 12 GB"), "efficient": Published(largest=6000, words="in 12 GB")}
)
# MiB of MXNet 1.9.1's plan that the original's own search reaches (batch 32, 224 px; LSTM 4x512, 200 steps, batch 64),
# and what its README says.
MEMONGER: Mapping[str, tuple[Published, Published]] = MappingProxyType(
    {
        "resnet50": (
            Published(4899, words="README 30537 and 15896 MB"),
            Published(1658, words="README 14466 and 7530 MB"),
        ),
        "densenet201": (
            Published(5725, words="README 125202 and 26084 MB"),
            Published(2134, words="README 35470 and 7389 MB"),
        ),
        "mobilenet_v2": (Published(2523), Published(1025)),
        "lstm": (Published(2042), Published(357)),
    }
)
ACTNN_2_BITS = Published(saved_ratio=1 / 12, words="saved 12x less, at 2 bits")
ACTNN_BATCH = "6.6-14x (ActNN)"
GACT: Mapping[str, Published] = MappingProxyType(  # ResNet-50, batch 64
    {"plain": Published(5641), "gact": Published(3446, saved_ratio=1 / 8.1, words="saved 8.1x less")}
)
ACGC: Mapping[str, Published] = MappingProxyType(  # CIFAR-10, ResNet-50, 300 epochs
    {
        "baseline": Published(accuracy=95.16),
        "quant8": Published(accuracy=94.90, bits=8.00),
        "quantz8": Published(accuracy=94.82, bits=7.43),
        "autoquant": Published(accuracy=94.73, bits=7.31),
        "autoquantz": Published(accuracy=94.91, bits=6.69),
    }
)
ACGC_TIME = "AC-GC reports that its schemes take 137 to 142 % longer, and store nothing really packed"
