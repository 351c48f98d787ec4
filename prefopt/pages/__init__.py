"""Pages: HTML files that need nothing but themselves, from templates that share a style."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

__all__ = ["render"]


def render(package: str, template: str, **context: object) -> str:
    """The page of a template in the package's folder `templates`, which may extend and include those of this package.

    Values are escaped, and a name that the context lacks is an error.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package, "templates"), PackageLoader(__name__, "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template(template).render(**context)
