"""The configurations of accelerate that come with the project are ones that it reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate import DistributedType
from accelerate.commands.config.config_args import load_config_from_file

FOLDER = Path(__file__).parents[2] / "benchmarks" / "accelerate"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ddp", DistributedType.MULTI_GPU),
        ("fsdp2", DistributedType.FSDP),
        ("zero2", DistributedType.DEEPSPEED),
        ("zero3", DistributedType.DEEPSPEED),
    ],
)
def test_a_configuration_is_read_and_documented(name: str, kind: DistributedType) -> None:
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.distributed_type, config.num_processes) == (kind, 8)
    page = (FOLDER.parents[1] / "docs" / "processes.md").read_text(encoding="utf-8")
    assert f"--config_file benchmarks/accelerate/{name}.yaml -m prefopt train run.yaml" in page
