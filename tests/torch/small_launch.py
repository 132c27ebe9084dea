"""What torchrun starts in tests: it trains the small network; process 1 may kill itself once, inside an epoch."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

from small_run import SmallNet, small_data, small_options  # noqa: E402

from pytorch_models.devices import set_seed  # noqa: E402
from pytorch_models.training import train  # noqa: E402
from zoo.launch import Launch  # noqa: E402


class Mortal(SmallNet):
    """Kills its process before the given training step, in the launcher's first round."""

    def __init__(self, dies_at_step: int | None) -> None:
        super().__init__(drop_rate=0.2)
        self.steps, self.dies_at_step = 0, dies_at_step

    def forward(self, images: object) -> object:
        self.steps += self.training
        launch = Launch.from_environment()
        if self.steps == self.dies_at_step and launch.rank == 1 and launch.restarts == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


def main(folder: str, dies_at_step: str = "") -> None:
    """Train into a folder; says who it is, so that a test sees how often it was started."""
    launch = Launch.from_environment()
    sys.stdout.write(f"process {launch.rank} of {launch.world}, round {launch.restarts}\n")
    sys.stdout.flush()
    set_seed(0)
    model = Mortal(int(dies_at_step) if dies_at_step else None)
    result = train(model, small_data(), small_options(save=folder, progress=True, valid_size=17))
    sys.stdout.write(f"process {launch.rank} tested {result.test_loss:.6f}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
