"""A text in memory, character by character: windows of consecutive ones, and after each the character to tell."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zoo.data.image_data import ImageData, check_split

WINDOW = 256  # characters
TEST_SHARE = 10  # the last tenth of a text is for testing
MOST_CHARACTERS = 2**16  # different ones; more are no alphabet
DEFAULT_NAME, PREFIX = "text", "text:"


@dataclass(frozen=True, eq=False)
class TextData:
    """Windows of a text to train and to test with, in the form `zoo.data.ImageData` has for images.

    Args:
        name: "text", or "text:" and a file's path.
        train_inputs: uint16, (windows, steps): characters by their place in `classes`.
        train_labels: int64, (windows, steps): the character after each.
        test_inputs, test_labels: of the end of the text.
        classes: every character of the text, in order of its code.
    """

    name: str
    train_inputs: NDArray[np.uint16]
    train_labels: NDArray[np.int64]
    test_inputs: NDArray[np.uint16]
    test_labels: NDArray[np.int64]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, name: str, text: str, window: int = WINDOW) -> TextData:
        """A text cut into windows; characters that fill no whole window are left out.

        Raises:
            ValueError: too short for a window to train and one to test with; too many different characters.

        Example:
            >>> data = TextData.of("abc", "abcab" * 20, window=8)
            >>> data.train_inputs.shape, data.classes, data.train_labels[0, :3].tolist()
            ((11, 8), ('a', 'b', 'c'), [1, 2, 0])
        """
        classes = tuple(sorted(set(text)))
        if len(classes) > MOST_CHARACTERS:
            raise ValueError(f"{name}: {len(classes)} different characters, needed are at most {MOST_CHARACTERS}")
        places = {character: place for place, character in enumerate(classes)}
        tokens = np.fromiter((places[character] for character in text), np.uint16, count=len(text))
        tests = len(tokens) // TEST_SHARE
        parts = [_windows(part, window) for part in (tokens[: len(tokens) - tests], tokens[len(tokens) - tests :])]
        if not all(len(inputs) for inputs, _ in parts):
            least = TEST_SHARE * (window + 1)
            raise ValueError(f"{name}: {len(text)} characters are too few: needed are at least {least}")
        (train_inputs, train_labels), (test_inputs, test_labels) = parts
        return cls(name, train_inputs, train_labels, test_inputs, test_labels, classes)

    def split(self, valid_size: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Windows to train and to validate with; see `zoo.data.ImageData.split`."""
        return check_split(self.name, len(self.train_inputs), valid_size, seed)

    def prepare(self, inputs: NDArray[np.uint16], rng: np.random.Generator | None = None) -> NDArray[np.int64]:
        """As the models take them: int64. Nothing is augmented."""
        return inputs.astype(np.int64)


Data = ImageData | TextData  # what every framework trains on


def _windows(tokens: NDArray[np.uint16], window: int) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    count = max(len(tokens) - 1, 0) // window
    inputs, labels = tokens[: count * window], tokens[1 : count * window + 1]
    return inputs.reshape(count, window), labels.reshape(count, window).astype(np.int64)


def is_text(name: object) -> bool:
    """Whether a data set's name means a text."""
    return isinstance(name, str) and (name == DEFAULT_NAME or name.startswith(PREFIX))


def check_text(name: str) -> None:
    """What can be known at once about `load_text`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: "text:" without a path.
    """
    if name == DEFAULT_NAME:
        return
    path = _path_of(name)
    if not path.is_file():
        raise FileNotFoundError(f"data {name!r}: {path} is not a file: give text:<file>, or text for one that is here")


def load_text(name: str) -> TextData:
    """The help topics of Python's standard library (some 700,000 characters of English), or a UTF-8 file.

    The topics differ a little from one version of Python to another.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8, too short, or no path given.
    """
    if name == DEFAULT_NAME:
        from pydoc_data.topics import topics

        return TextData.of(name, "\n".join(topics[key] for key in sorted(topics)))
    check_text(name)
    path = _path_of(name)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"data {name!r}: {path} is not UTF-8 text ({error}): convert it") from None
    return TextData.of(name, text)


def with_whole_path(name: str) -> str:
    """The same text by a name that means it in every folder."""
    return name if name == DEFAULT_NAME else f"{PREFIX}{_path_of(name).absolute()}"


def _path_of(name: str) -> Path:
    path = name.removeprefix(PREFIX)
    if not path.strip():
        raise ValueError(f"data {name!r} names no file: give text:<file>, or text for one that is here")
    return Path(path).expanduser()
