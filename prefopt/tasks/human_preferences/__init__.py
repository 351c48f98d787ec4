"""Tasks of prompts that models answer and of pairs that people have chosen between."""
