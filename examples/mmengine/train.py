"""Train what a config of mmengine's describes, on one process or under torchrun.

Run: python examples/mmengine/train.py CONFIG [key=value ...]
     torchrun --nproc-per-node 2 examples/mmengine/train.py CONFIG launcher=pytorch
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from mmengine.config import Config, DictAction
from mmengine.runner import Runner


def main(arguments: list[str]) -> None:
    """Run a config, with values changed as `train_cfg.max_epochs=1`."""
    if not arguments:
        sys.exit(__doc__)
    config = Config.fromfile(arguments[0])
    changes = dict(argument.split("=", 1) for argument in arguments[1:])
    config.merge_from_dict({key: DictAction._parse_iterable(value) for key, value in changes.items()})
    if config.get("launcher") == "pytorch" and not torch.cuda.is_available():
        # Without these, mmengine's launcher chooses a GPU for every process.
        torch.distributed.init_process_group("gloo")
        config.model_wrapper_cfg = {"type": "MMDistributedDataParallel", "device_ids": None}
    Runner.from_cfg(config).train()


if __name__ == "__main__":
    main(sys.argv[1:])
