"""prefopt-lexicon"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prefopt_lexicon.annotate import annotate_file, pattern, words

__all__ = ["main"]

UNUSABLE = 2
"""Exit code where what the user gave cannot be used."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Mark words in the responses of preference data, for the weighting `lexicon`."""
    parser = argparse.ArgumentParser(prog="prefopt-lexicon", description=main.__doc__)
    parser.add_argument("input", type=Path, metavar="INPUT", help="a file of rows, such as pairs.jsonl")
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="the file to write, one JSON object a line")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--words", type=Path, metavar="FILE", help="a word or phrase a line, matched as whole words")
    what.add_argument("--pattern", metavar="REGEX", help="a regular expression")
    parser.add_argument("--case-sensitive", action="store_true", help="tell capitals from small letters")
    parser.add_argument("--column", default="lexicon", metavar="NAME", help="write chosen_NAME and rejected_NAME")
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT (may be INPUT) where it is there")
    given = parser.parse_args(arguments)
    try:
        if given.words is None:
            matches = pattern(given.pattern, case_sensitive=given.case_sensitive)
        else:
            lines = given.words.read_text(encoding="utf-8-sig").splitlines()
            matches = words(lines, case_sensitive=given.case_sensitive)
        counts = annotate_file(given.input, given.output, matches, column=given.column, overwrite=given.overwrite)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    print(f"{given.output}: {counts}")
    return 0
