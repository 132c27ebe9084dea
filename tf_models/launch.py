"""Start one command many times on this machine, joined by TensorFlow's collectives: `python -m tf_models.launch`.

    python -m tf_models.launch --workers 2 demo.py --framework tensorflow --data cifar10 --save runs/x

Every process is told of the others by the variable TF_CONFIG; a cluster's own launcher that sets it does as well.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from zoo.processes import HERE, free_ports, launcher_main, run_together


def launch(workers: int, command: Sequence[str]) -> int:
    """Run `python command...` so many times; the first exit code that is not 0, or 0."""
    cluster = {"worker": [f"{HERE}:{port}" for port in free_ports(workers)]}
    tasks = [{"cluster": cluster, "task": {"type": "worker", "index": index}} for index in range(workers)]
    return run_together(command, [{**os.environ, "TF_CONFIG": json.dumps(task)} for task in tasks])


def main(arguments: Sequence[str]) -> int:
    """Run the launcher; its exit code."""
    return launcher_main("tf_models.launch", str(__doc__).partition("\n")[0], launch, arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
