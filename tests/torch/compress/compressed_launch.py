"""What torchrun starts in a test: trains a compressed network; asked to, dies when it would save a second time."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parents[3]), str(Path(__file__).resolve().parents[1])]

from small_run import SmallNet, small_data, small_options  # noqa: E402

from pytorch_models import checkpoint  # noqa: E402
from pytorch_models.compressed import compress  # noqa: E402
from pytorch_models.devices import set_seed  # noqa: E402
from pytorch_models.training import train  # noqa: E402
from zoo.run_folder import holds_run  # noqa: E402


def main(folder: str, dies: str = "") -> None:
    """Train into a folder, or go on with the run there."""
    take, calls = checkpoint.take_learnt, []

    def take_or_die(*given: Any) -> list[dict[str, Any]]:
        calls.append(1)
        if dies and len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(*given)

    checkpoint.take_learnt = take_or_die
    set_seed(0)
    model = compress(SmallNet(drop_rate=0.2), "L3")
    train(model, small_data(), small_options(save=folder, valid_size=17, resume=holds_run(folder)))


if __name__ == "__main__":
    main(*sys.argv[1:])
