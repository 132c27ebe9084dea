"""What a command does when nobody reads its output any more, as after `| head -1`: it ends, and says nothing of it."""

from __future__ import annotations

import os
import sys

BROKEN_PIPE = 141  # 128 + SIGPIPE: what a shell reports of a program that the signal ended


def give_up_output() -> int:
    """Send what is still to be written to standard output nowhere, or Python complains at exit; the exit code."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return BROKEN_PIPE
