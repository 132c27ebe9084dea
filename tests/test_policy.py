"""MemoryPolicy: what each flag means, and that contradictions are refused before anything is built."""

from __future__ import annotations

import dataclasses

import pytest

from zoo.policy import MemoryPolicy

PROPERTIES = ("inplace_activations", "share_features", "recompute_activations", "recompute_bottleneck")


@pytest.mark.quick
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, (False, False, False, False)),
        ({"opt_memory": 0}, (False, False, False, False)),
        ({"opt_memory": 1}, (True, False, False, False)),
        ({"opt_memory": 2}, (True, False, False, False)),
        ({"opt_memory": 3}, (True, True, False, False)),
        ({"opt_memory": 4}, (True, True, True, False)),
        ({"efficient": True, "keep_bottleneck": True}, (False, True, True, False)),
        ({"efficient": True}, (False, True, True, True)),
    ],
)
def test_what_a_flag_keeps(flags: dict[str, object], expected: tuple[bool, ...]) -> None:
    policy = MemoryPolicy(**flags)  # type: ignore[arg-type]
    assert tuple(getattr(policy, name) for name in PROPERTIES) == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"keep_bottleneck": True}, ("keep_bottleneck", "efficient=True")),
        ({"opt_memory": 5}, ("opt_memory", "0, 1, 2, 3, 4", "5")),
        ({"opt_memory": -1}, ("opt_memory", "-1")),
        ({"efficient": True, "opt_memory": 3}, ("efficient=True", "opt_memory=3")),
        ({"efficient": True, "opt_memory": 0}, ("efficient=True", "opt_memory=0")),
    ],
)
def test_contradictions_are_refused(flags: dict[str, object], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"opt_memory|keep_bottleneck") as caught:
        MemoryPolicy(**flags)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("name", ["efficient", "keep_bottleneck"])
@pytest.mark.parametrize("value", [1, 0, "False", None])
def test_a_switch_is_true_or_false(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"{name} must be True or False"):
        MemoryPolicy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [True, 3.0, "3"])
def test_a_level_is_an_integer(value: object) -> None:
    with pytest.raises(TypeError, match="opt_memory must be an integer"):
        MemoryPolicy(opt_memory=value)  # type: ignore[arg-type]


def test_a_policy_cannot_be_changed() -> None:
    policy = MemoryPolicy()
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.efficient = True  # type: ignore[misc]
    assert policy == MemoryPolicy()
    assert hash(policy) == hash(MemoryPolicy())


@pytest.mark.parametrize(
    ("compressed", "near"),
    [
        ("fixd:4", "fixed:4"),
        ("fixed:99", "fixed:16"),
        ("haf", "half"),
        (3, "2 or fixed:3"),
        ("l_3", "L3"),
        ("nope", ""),
    ],
)
def test_an_unknown_codec_is_met_with_those_that_are_taken(compressed: object, near: str) -> None:
    pytest.importorskip("numpy", reason="NumPy is not installed: pip install numpy")
    with pytest.raises(ValueError, match=f"did you mean {near}" if near else "Known: 1, 2, 4, 8, fixed:2") as caught:
        MemoryPolicy(compressed=compressed)  # type: ignore[arg-type]
    told = str(caught.value)
    assert "half, bfloat16" in told
    assert not any(name in told for name in ("fixed:1 ", "zero", "mask", "identity", "swap:"))
