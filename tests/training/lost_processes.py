"""One process of a group that test_lost_process starts: the second ends without a word, and the first writes down what
it knows of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch.distributed as dist

from prefopt.training.disk import explained
from prefopt.training.lost_process import LostProcessError, naming_lost_process

if __name__ == "__main__":
    out = Path(sys.argv[1])
    dist.init_process_group("gloo")
    dist.barrier()
    if dist.get_rank() == 1:
        os._exit(0)
    try:
        with naming_lost_process(), explained("the checkpoint of step 4", out):
            dist.barrier()
    except LostProcessError as error:
        (out / "error").write_text(str(error))
    os._exit(0)  # the group cannot be taken down without the other
