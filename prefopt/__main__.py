"""`python -m prefopt`: the command line."""

from __future__ import annotations

from prefopt.cli import app

if __name__ == "__main__":
    app()
