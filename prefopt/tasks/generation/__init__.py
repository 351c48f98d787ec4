"""Sampling from a policy, and what is measured of its texts."""
