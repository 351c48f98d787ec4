"""What a release needs of its repository.

python .github/release.py version PYPROJECT TAG    fails where the tag is not v and the version
python .github/release.py urls REPOSITORY PYPROJECT...    writes the project's URLs into each
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

_PAGES = {
    "Source": "",
    "Documentation": "/tree/main/docs",
    "Changelog": "/blob/main/{folder}CHANGELOG.md",
    "Issues": "/issues",
}


def check_version(pyproject: Path, tag: str) -> None:
    """Exit with a message where the tag is another than the version's."""
    version = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["version"]
    if tag != f"v{version}":
        sys.exit(
            f"{pyproject}: its version is {version}, so that the tag is v{version}, not {tag}; change one of the two"
        )


def write_urls(repository: str, pyproject: Path) -> None:
    """Add the table of URLs to a pyproject that has none."""
    text = pyproject.read_text(encoding="utf-8")
    if "urls" in tomllib.loads(text)["project"]:
        sys.exit(f"{pyproject}: it has project URLs already; leave them out, as the release writes its repository's")
    folder = "".join(f"{part}/" for part in pyproject.parent.parts)  # of a plugin, within the repository
    lines = [f'{name} = "{repository}{path.format(folder=folder)}"' for name, path in _PAGES.items()]
    pyproject.write_text("\n".join([text.rstrip(), "", "[project.urls]", *lines, ""]), encoding="utf-8")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["version", file, tag]:
            check_version(Path(file), tag)
        case ["urls", repository, *files] if files:
            for name in files:
                write_urls(repository, Path(name))
        case _:
            sys.exit(__doc__)
