"""The summarization task: people's choices between two summaries of a post."""

from prefopt.tasks.summarization.task import SummarizationTask

__all__ = ["SummarizationTask"]
