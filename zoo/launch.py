"""Which of several processes this one is, when a launcher or a scheduler has started the same command many times."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from zoo.run_folder import holds_run

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
HOROVODS = ("HOROVOD_", "OMPI_COMM_WORLD_")  # what horovodrun, or the mpirun that it starts, calls its variables
TORCHRUN, MXNET, TENSORFLOW, HOROVOD = "torchrun", "mxnet", "tensorflow", "horovod"


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
        by: whose launcher that was: torchrun (or what sets the same variables), `python -m mxnet_memonger.launch`,
            "tensorflow" for TF_CONFIG, horovodrun; "" without one.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    restarts: int = 0
    launched: bool = False
    machines: int = 1
    by: str = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Launch:
        """Read the variables that torchrun, horovodrun or TensorFlow's clusters set; without any there was no launcher.

        Raises:
            ValueError: a variable that is no number, or numbers that do not fit together.

        Example:
            >>> Launch.from_environment({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}).world
            2
        """
        if any(name not in environment for name in VARIABLES):
            return cls._of_horovod(environment) or cls._of_cluster(environment.get("TF_CONFIG", "")) or cls()
        rank, world = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
        if rank >= world:
            raise ValueError(f"RANK={rank} must be below WORLD_SIZE={world}")
        local_rank = _number(environment, "LOCAL_RANK", default=str(rank))
        restarts = _number(environment, "TORCHELASTIC_RESTART_COUNT", default="0")
        machines = _number(environment, "GROUP_WORLD_SIZE", default="1")
        by = MXNET if environment.get("DMLC_ROLE") == "worker" else TORCHRUN
        return cls(rank, world, local_rank, restarts, True, machines, by)

    @classmethod
    def _of_horovod(cls, environment: Mapping[str, str]) -> Launch | None:
        """Of horovodrun; None for a process that is alone."""
        for prefix in HOROVODS:
            if prefix + "SIZE" in environment and prefix + "RANK" in environment:
                rank, world = (_number(environment, prefix + name) for name in ("RANK", "SIZE"))
                local_rank = _number(environment, prefix + "LOCAL_RANK", default=str(rank))
                return cls(rank, world, local_rank, launched=True, by=HOROVOD) if world > 1 else None
        return None

    @classmethod
    def _of_cluster(cls, text: str) -> Launch | None:
        """Of TF_CONFIG, a JSON of addresses by role and of this process's role and number; None for one alone."""
        try:
            told = json.loads(text or "{}")
            cluster, task = told.get("cluster", {}), told.get("task", {})
            workers = [*cluster.get("chief", ()), *cluster.get("worker", ())]
            if len(workers) < 2:
                return None
            before = len(cluster.get("chief", ())) if task["type"] == "worker" else 0
            rank = before + int(task["index"])
            hosts = [str(address).rpartition(":")[0] for address in workers]
            if task["type"] not in ("chief", "worker") or "ps" in cluster or not 0 <= rank < len(workers):
                raise ValueError(f"task {task} of {sorted(cluster)}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                'the launcher\'s variable TF_CONFIG must be like {"cluster": {"worker": ["host:port", "host:port"]}, '
                f'"task": {{"type": "worker", "index": 0}}}}: {error!r}; parameter servers are not offered'
            ) from None
        local_rank = hosts[:rank].count(hosts[rank])
        return cls(rank, len(workers), local_rank, 0, True, len(set(hosts)), TENSORFLOW)

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
