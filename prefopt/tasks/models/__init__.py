"""The small language models that tasks train, and copies of models as tasks need them."""
