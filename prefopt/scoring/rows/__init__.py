"""How pairs lie in the rows that a model is called with: layouts, packing, limits and attention masks."""
