"""python build_wheels.py FOLDER SOURCE...    the wheels of packages, by the backend that pip would call, each in a fork
of a process that has imported it."""

from __future__ import annotations

import os
import sys

from setuptools.build_meta import build_wheel

if __name__ == "__main__":
    folder, *sources = sys.argv[1:]
    for source in sources:
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0, source
        else:
            os.chdir(source)
            build_wheel(folder)
            sys.exit()
