"""Comparative runs: suites, the runs that they spell out, and the statistics of their records."""
