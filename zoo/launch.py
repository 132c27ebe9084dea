"""Which of several processes this one is, when torchrun or a scheduler has started the same command many times."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.run_folder import holds_run

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """This process's place among those of one launch.

    Args:
        rank: its number, from 0; the first one writes the files and speaks.
        world: how many there are.
        local_rank: its number on this machine, which is that of its GPU.
        restarts: how often this machine's launcher has started its processes again after one had failed.
        machines: how many machines they are on.
        launched: whether there was a launcher; without one, this is the only process.
        by_mxnet: whether that was `python -m mxnet_memonger.launch`.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    restarts: int = 0
    launched: bool = False
    machines: int = 1
    by_mxnet: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """Read the variables that torchrun sets; without all of `VARIABLES` there was no launcher.

        Raises:
            ValueError: a variable that is no number, or numbers that do not fit together.

        Example:
            >>> Launch.from_environment({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}).world
            2
        """
        if any(name not in environment for name in VARIABLES):
            return cls()
        rank, world = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        if rank >= world:
            raise ValueError(f"RANK={rank} must be below WORLD_SIZE={world}")
        local_rank = _number(environment, "LOCAL_RANK", default=str(rank))
        restarts = _number(environment, "TORCHELASTIC_RESTART_COUNT", default="0")
        machines = _number(environment, "GROUP_WORLD_SIZE", default="1")
        return cls(rank, world, local_rank, restarts, True, machines, environment.get("DMLC_ROLE") == "worker")

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files and speaks."""
        return self.rank == 0

    def goes_on(self, save: str | Path | None) -> bool:
        """Whether the launcher has started a saved run again, which then goes on from its last checkpoint."""
        return self.restarts > 0 and save is not None and holds_run(save)


def _number(environment: Mapping[str, str], name: str, default: str = "") -> int:
    text = environment.get(name, default)
    if not text.isdecimal():
        raise ValueError(f"the launcher's variable {name} must be a number, not {text!r}")
    return int(text)
