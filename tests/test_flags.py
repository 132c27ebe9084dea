"""Command-line flags: what is wrong is refused with the nearest valid choice, what is right arrives as it was meant."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.flags import FlagError, as_arguments, flags_of, help_lines, help_text, parse

pytestmark = pytest.mark.quick


def command(
    data: str = "x",
    save: str | None = None,
    *,
    depth: int = 100,
    batch_size: int = 64,
    lr: float = 0.1,
    efficient: bool = False,
    level: int | None = None,
) -> dict[str, object]:
    """Do something.

    Args:
        data: which data
        save: where to
        depth: how deep
        batch_size: how many
        lr: how fast
        efficient: whether
        level: which level
    """
    return dict(locals())


FLAGS = flags_of(command)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", {}),
        ("--depth 40", {"depth": 40}),
        ("--depth=40 --lr 1e-3", {"depth": 40, "lr": 0.001}),
        ("--batch-size 8", {"batch_size": 8}),
        ("--batch_size 8", {"batch_size": 8}),
        ("--efficient", {"efficient": True}),
        ("--efficient --depth 40", {"efficient": True, "depth": 40}),
        ("--efficient True", {"efficient": True}),
        ("--efficient true", {"efficient": True}),
        ("--efficient False", {"efficient": False}),
        ("--efficient false", {"efficient": False}),
        ("--efficient=0", {"efficient": False}),
        ("--noefficient", {"efficient": False}),
        ("--no-efficient", {"efficient": False}),
        ("--lr -1", {"lr": -1.0}),
        ("--level None", {"level": None}),
        ("--level 3", {"level": 3}),
        ("--save 123", {"save": "123"}),
        ("cifar10", {"data": "cifar10"}),
        ("cifar10 runs/1 --depth 40", {"data": "cifar10", "save": "runs/1", "depth": 40}),
        ("--data cifar10 runs/1", {"data": "cifar10", "save": "runs/1"}),
    ],
)
def test_what_is_understood(line: str, expected: dict[str, object]) -> None:
    found = parse(line.split(), FLAGS)
    assert found == expected
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in expected.items()}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--dept 40", "unknown flag --dept; did you mean --depth?"),
        ("--batchsize 8", "unknown flag --batchsize; did you mean --batch_size?"),
        ("--Efficient True", "unknown flag --Efficient; did you mean --efficient?"),
        ("-depth 40", "unknown flag -depth; did you mean --depth?"),
        ("--nodepth", "unknown flag --nodepth; did you mean --depth?"),
        ("--learning_rate 1", "unknown flag --learning_rate; did you mean --lr?"),
        ("--zzzz", r"unknown flag --zzzz \(--help"),
        ("--depth abc", "--depth needs an integer, not 'abc'"),
        ("--depth 40.0", "--depth needs an integer, not '40.0'"),
        ("--depth None", "--depth needs an integer, not 'None'"),
        ("--lr fast", "--lr needs a finite number, not 'fast'"),
        ("--lr inf", "--lr needs a finite number, not 'inf'"),
        ("--efficient maybe", "--efficient needs True or False, not 'maybe'"),
        ("--depth", "--depth needs a value: an integer"),
        ("--depth --efficient", "--depth needs a value"),
        ("--depth= --efficient", "--depth needs an integer, not ''"),
        ("--depth 40 --depth 22", "--depth is given twice"),
        ("--efficient --noefficient", "--efficient is given twice"),
        ("--noefficient=True", "write --efficient False"),
        ("a b c", "'c' belongs to no flag"),
    ],
)
def test_what_is_refused(line: str, message: str) -> None:
    with pytest.raises(FlagError, match=message):
        parse(line.split(), FLAGS)


@settings(max_examples=60, deadline=None)
@given(
    save=st.text(min_size=1, max_size=12),
    depth=st.integers(),
    lr=st.floats(allow_nan=False, allow_infinity=False),
    efficient=st.booleans(),
    level=st.none() | st.integers(),
)
def test_fire_gets_the_values_that_were_meant(
    save: str, depth: int, lr: float, efficient: bool, level: int | None
) -> None:
    values = {
        "data": "x",
        "save": save,
        "depth": depth,
        "batch_size": 1,
        "lr": lr,
        "efficient": efficient,
        "level": level,
    }
    fire = pytest.importorskip("fire", reason="fire is not installed: pip install 'memory-efficient-zoo[demo]'")
    seen: dict[str, object] = {}

    def record(
        data: object, save: object, depth: object, batch_size: object, lr: object, efficient: object, level: object
    ) -> None:
        seen.update(locals())

    fire.Fire(record, command=as_arguments(values), name="command")
    del seen["seen"]
    assert seen == values
    assert type(seen["save"]) is str


def test_help_has_a_line_for_every_flag() -> None:
    text = help_text(FLAGS, help_lines(command), {flag.name: str(flag.default) for flag in FLAGS})
    lines = text.splitlines()
    assert len(lines) == len(FLAGS)
    assert lines[2].split() == ["--depth", "INT", "how", "deep", "(default", "100)"]


def test_a_function_that_cannot_be_a_command_is_refused() -> None:
    def without_default(depth: int) -> None: ...

    def with_a_list(depths: list[int] = []) -> None: ...  # noqa: B006

    for function in (without_default, with_a_list):
        with pytest.raises(TypeError, match="cannot be a flag"):
            flags_of(function)


def test_a_command_without_flags_says_so() -> None:
    for line in ("--verbose", "torch"):
        with pytest.raises(FlagError, match="this command takes no flags"):
            parse([line], ())
