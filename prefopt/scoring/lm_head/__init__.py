"""The LM head: token statistics from hidden states, in chunks of tokens and blocks of the vocabulary."""
