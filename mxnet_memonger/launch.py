"""Start one command many times on this machine, joined by MXNet's kvstore: `python -m mxnet_memonger.launch`.

    python -m mxnet_memonger.launch --workers 2 demo.py --framework mxnet --data cifar10 --save runs/x

MXNet needs a scheduler and a server beside the workers; they are started and ended too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from zoo.processes import HERE, end, free_ports, launcher_main, wait_for_all

SERVE = "import mxnet_memonger.numpy_names"  # with such a role, importing MXNet is to serve until all workers are done


def launch(workers: int, command: Sequence[str]) -> int:
    """Run `python command...` so many times; the first exit code that is not 0, or 0."""
    port = str(free_ports(1)[0])
    common = {"DMLC_PS_ROOT_URI": HERE, "DMLC_PS_ROOT_PORT": port, "DMLC_NUM_SERVER": "1"}
    common |= {"DMLC_NUM_WORKER": str(workers), "WORLD_SIZE": str(workers), "MASTER_ADDR": HERE, "MASTER_PORT": port}
    helpers = [
        subprocess.Popen([sys.executable, "-c", SERVE], env={**os.environ, **common, "DMLC_ROLE": role})
        for role in ("scheduler", "server")
    ]
    own = [
        subprocess.Popen(
            [sys.executable, *command], env={**os.environ, **common, "DMLC_ROLE": "worker", "RANK": str(rank)}
        )
        for rank in range(workers)
    ]
    code = 1
    try:
        code = wait_for_all(own)
    finally:  # after success scheduler and server end by themselves; with a worker missing they never would
        for process in (*own, *helpers):
            end(process, patient=process in helpers and code == 0)
    return code


def main(arguments: Sequence[str]) -> int:
    """Run the launcher; its exit code."""
    return launcher_main("mxnet_memonger.launch", str(__doc__).partition("\n")[0], launch, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
