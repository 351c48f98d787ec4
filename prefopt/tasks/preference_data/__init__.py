"""Rows of preferences from where they are kept to training, held-out and prompt files."""
