"""Several processes that train one model: sums over all of them, through MXNet's own kvstore (dist_sync)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mxnet_memonger.numpy_names import mx
from zoo.launch import Launch
from zoo.options import RefusedOptionError
from zoo.refusals import Request, check_offered


class Workers:
    """This process among those that `python -m mxnet_memonger.launch` started; without a launcher, the only one.

    Args:
        launch: its place among them.
        store: MXNet's kvstore, or None for a single process.
    """

    def __init__(self, launch: Launch, store: Any = None) -> None:
        self.launch, self.store = launch, store
        self._known: set[str] = set()

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Workers:
        """Join the others, if there are any.

        Raises:
            RefusedOptionError: another launcher started this process; or this MXNet cannot join processes.
        """
        launch = Launch.from_environment(environment)
        if not launch.launched:
            return cls(launch)
        check_offered("mxnet", Request(launch=launch))
        if not mx.runtime.Features().is_enabled("DIST_KVSTORE"):
            raise RefusedOptionError(f"MXNet {mx.__version__} is built without DIST_KVSTORE here: train in one process")
        return cls(launch, mx.kv.create("dist_sync"))

    @property
    def world(self) -> int:
        """How many there are."""
        return self.launch.world if self.store is not None else 1

    @property
    def rank(self) -> int:
        """This one's number."""
        return self.launch.rank if self.store is not None else 0

    def add_up(self, arrays: Mapping[str, Any]) -> None:
        """Replace each array by its sum over all processes, the same bits in each of them; all call it alike."""
        if self.store is None:
            return
        for name, array in arrays.items():
            if name not in self._known:
                self.store.init(name, mx.nd.zeros_like(array))
                self._known.add(name)
            self.store.push(name, array)
        for name, array in arrays.items():
            self.store.pull(name, out=array)
        # The store adds to what it holds: one process takes the sum away again. It tells processes apart by counting,
        # so none may come back with the next sum before all have done this one.
        emptied = {name: -array if self.rank == 0 else mx.nd.zeros_like(array) for name, array in arrays.items()}
        for name, array in emptied.items():
            self.store.push(name, array)
        for name, array in emptied.items():
            self.store.pull(name, out=array)
        for array in emptied.values():
            array.wait_to_read()

    def share(self, arrays: Mapping[str, Any]) -> None:
        """Replace each array by the first process's."""
        if self.store is None:
            return
        if self.rank:
            for array in arrays.values():
                array[:] = 0
        self.add_up(arrays)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.store is not None:
            mx.nd.waitall()
            self.store._barrier()
