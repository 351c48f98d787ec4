"""The summarization task: human preferences between two summaries of a post."""

from prefopt.tasks.summarization.task import SummarizationTask

__all__ = ["SummarizationTask"]
