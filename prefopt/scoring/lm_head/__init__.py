"""From hidden states to statistics of tokens: the LM head, in chunks of tokens and blocks of the vocabulary."""
