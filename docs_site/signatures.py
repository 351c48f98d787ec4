"""How a symbol is written, read off its source."""

from __future__ import annotations

import ast
import textwrap


def signature(node: ast.AST) -> str:
    """How a symbol is written: a function without its body, a class with its fields."""
    if isinstance(node, ast.FunctionDef):
        decorators = [f"@{ast.unparse(decorator)}\n" for decorator in node.decorator_list]
        kept = [text for text in decorators if text.startswith(("@property", "@classmethod", "@staticmethod"))]
        arguments = [text for text in _arguments(node.args) if text not in ("self", "cls")]
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        line = f"def {node.name}({', '.join(arguments)}){returns}"
        if len(line) > 96:
            line = "\n".join([f"def {node.name}(", *(f"    {argument}," for argument in arguments), f"){returns}"])
        return "".join(kept) + line
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        fields = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign) and not _is_private(part)]
        start = [signature(part) for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        body = [textwrap.indent(text, "    ") for text in fields + start]
        return "\n".join([f"class {node.name}{f'({bases})' if bases else ''}", *body])
    return textwrap.shorten(ast.unparse(node), 300, placeholder=" ...")


def _arguments(arguments: ast.arguments) -> list[str]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    texts = [_argument(*pair) for pair in zip(positional, defaults, strict=True)]
    if arguments.vararg:
        texts.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        texts.append("*")
    texts += [_argument(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return texts + ([f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg else [])


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    equals = " = " if argument.annotation else "="
    return ast.unparse(argument) + (f"{equals}{ast.unparse(default)}" if default else "")


def _is_private(part: ast.AnnAssign) -> bool:
    return isinstance(part.target, ast.Name) and part.target.id.startswith("_")
