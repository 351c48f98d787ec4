"""Training: PreferenceTrainer, its configuration, and the run file."""

from __future__ import annotations

from prefopt.training.callbacks import ReferenceUpdate
from prefopt.training.config import PreferenceConfig
from prefopt.training.execute import RunResult, start, train
from prefopt.training.failed_step import FailedStepError
from prefopt.training.plan import RunPlan, UnknownPlanError, plan_run
from prefopt.training.replay import Replay, replay
from prefopt.training.run_file import RunFile, RunFileError
from prefopt.training.run_sections import DataSection, ModelSection
from prefopt.training.samples import SamplesCallback
from prefopt.training.saved_run import SavedRun, SavedRunError
from prefopt.training.trainer import PreferenceTrainer
from prefopt.training.upload import UploadError, push_run, stage_run

__all__ = [
    "DataSection",
    "FailedStepError",
    "ModelSection",
    "PreferenceConfig",
    "PreferenceTrainer",
    "ReferenceUpdate",
    "Replay",
    "RunFile",
    "RunFileError",
    "RunPlan",
    "RunResult",
    "SamplesCallback",
    "SavedRun",
    "SavedRunError",
    "UnknownPlanError",
    "UploadError",
    "plan_run",
    "push_run",
    "replay",
    "stage_run",
    "start",
    "train",
]
