"""Every token weighting, learned or not, on planted tokens and on real text."""
