"""The dialogue task: people's choices between two answers to a conversation."""

from prefopt.tasks.dialogue.task import DialogueTask

__all__ = ["DialogueTask"]
