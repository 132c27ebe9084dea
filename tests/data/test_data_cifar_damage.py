"""CIFAR archives with random damage: an error that names the file, or images that are whole; never a crash."""

from __future__ import annotations

from pathlib import Path

import cifar_archives as made
import pytest
from cifar_archives import assert_holds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import zoo.data
from zoo.data.cifar import load_cifar_path
from zoo.data.cifar_batches import decode_pickled


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damaged") / "c.tar"


def damaged_outcome(path: Path, content: bytes) -> zoo.data.ImageData | None:
    """What the reader makes of `content`: images, or a ValueError that names the file (None)."""
    path.write_bytes(content)
    try:
        return load_cifar_path(path)
    except ValueError as error:
        if str(path) not in str(error):
            raise
        return None


QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("form", ["python", "binary"])
@QUICK
@given(data=st.data())
def test_a_flipped_bit_in_a_gzipped_archive_never_passes(form: str, scratch: Path, data: st.DataObject) -> None:
    """gzip's checksum covers every pixel, so a flip is an error or changes nothing (the header's date and name)."""
    content = bytearray(made.official_tar("cifar100", form, images_a_file=1))
    content[data.draw(st.integers(0, len(content) - 1), "byte")] ^= 1 << data.draw(st.integers(0, 7), "bit")
    outcome = damaged_outcome(scratch, bytes(content))
    if outcome is not None:
        assert_holds(outcome, "cifar100", made.official_files("cifar100", form, 1)[1])


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
@QUICK
@given(data=st.data())
def test_a_truncated_archive_never_passes(form: str, mode: str, scratch: Path, data: st.DataObject) -> None:
    files, _ = made.official_files("cifar100", form, 1)
    del files["readme.html"]
    content = made.tar_bytes(files, mode)
    # A plain tar ends with empty blocks that hold nothing; all before them counts.
    needed = len(content) if mode == "w:gz" else len(content.rstrip(b"\0"))
    outcome = damaged_outcome(scratch, content[: data.draw(st.integers(0, needed - 1), "length")])
    assert outcome is None


@pytest.mark.parametrize("form", ["python", "binary"])
@QUICK
@given(data=st.data())
def test_flipped_bits_in_a_plain_archive_never_crash(form: str, scratch: Path, data: st.DataObject) -> None:
    """A plain tar has no checksum over its content: another pixel passes, another length, type or label does not."""
    files, _ = made.official_files("cifar100", form, 1)
    content = bytearray(made.tar_bytes(files, "w"))
    for _ in range(data.draw(st.integers(1, 8), "flips")):
        # Structure, not pixels: the first bytes of each file and its header.
        place = data.draw(st.sampled_from([0, 1, 2])) * (len(content) // 3) + data.draw(st.integers(0, 1200))
        content[min(place, len(content) - 1)] ^= 1 << data.draw(st.integers(0, 7))
    outcome = damaged_outcome(scratch, bytes(content))
    if outcome is not None:
        assert outcome.train_images.shape == outcome.test_images.shape == (1, 3, 32, 32)


@QUICK
@given(content=st.binary(max_size=200))
def test_random_bytes_are_no_pickle(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^file "):
        decode_pickled(content, "labels", 10, "file")
