"""The rows of tokens that the models are run on: layout, packing and attention mask."""
