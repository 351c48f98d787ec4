"""The dialogue task: human preferences between two answers."""

from prefopt.tasks.dialogue.task import DialogueTask

__all__ = ["DialogueTask"]
