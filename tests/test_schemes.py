"""Schemes by name, and what a policy makes of them."""

from __future__ import annotations

import pytest

from zoo.policy import MemoryPolicy
from zoo.schemes import SCHEMES, find_scheme, is_scheme


@pytest.mark.quick
@pytest.mark.parametrize("name", [*SCHEMES, "gact:2", "quant6", "quantz16", "8"])
def test_names_come_back(name: str) -> None:
    assert str(find_scheme(name)) == name
    assert find_scheme(find_scheme(name)) == find_scheme(name.lower())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("L6", "L"),
        ("gact:5", "gact:4"),
        ("quantz99", "quantz16"),
        ("3", "2"),
        ("autoquant-rs", "autoquant-sr"),
        ("gact:x", "gact:4"),
    ],
)
def test_unknown_names_say_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean {near}"):
        find_scheme(name)
    with pytest.raises(TypeError):
        find_scheme(None)


def test_a_policy_has_one_scheme_or_one_codec() -> None:
    policy = MemoryPolicy(compressed="l3.1")
    assert str(policy) == "compressed L3.1"
    assert policy.codec is None
    assert policy.scheme == SCHEMES["L3.1"]
    assert not policy.recompute_activations
    assert MemoryPolicy(compressed=2).scheme is None
    assert not is_scheme("fixed:4")
    for flags in ({"efficient": True}, {"opt_memory": 3}):
        with pytest.raises(ValueError, match="compressed="):
            MemoryPolicy(compressed="gact:4", **flags)  # type: ignore[arg-type]
