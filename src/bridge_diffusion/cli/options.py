"""Command-line options made from an options dataclass, so that each is written down once.

A field's name gives the flag, its type the parser, its docstring line the help text.
"""

import ast
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

Given = Mapping[str, Any]
"""The fields that the user gave, by name; those left out are absent."""


def takes(
    options: type,
    *,
    argument: str,
    parsers: Mapping[str, tuple[str, Callable[[str], Any]]],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a dataclass as options.

    The command's own first parameter must be `given: Given`; it gets what the user gave.

    Args:
        options: The dataclass.
        argument: The field that is the command's one positional argument; it may be left out.
        parsers: Placeholder and parser for the fields of a type that typer does not know.
    """
    hints, docs = get_type_hints(options), _field_docs(options)
    names = [field.name for field in fields(options)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command).parameters.values())[1:]
        added = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    _parsed_type(field.name, hints, parsers),
                    _parameter(field, hints[field.name], docs[field.name], argument, parsers),
                ],
            )
            for field in fields(options)
        ]

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            given = {name: values.pop(name) for name in names}
            given = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in given.items()
                if value not in (None, [])  # an option that may be repeated
            }
            for name in parsers.keys() & given:
                given[name] = parsers[name][1](given[name])
            command(given, **values)

        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        wrapped.__signature__ = inspect.Signature(added + keyword)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {p.name: p.annotation for p in added + keyword}
        return wrapped

    return decorate


def _parsed_type(name: str, hints: Mapping[str, Any], parsers: Mapping[str, Any]) -> Any:
    """The type that typer is shown: None means "not given", so each may also be None."""
    if name in parsers:
        return str | None
    if repeated := _repeated(hints[name]):
        return list[repeated] | None
    kinds = [kind for kind in get_args(hints[name]) if kind is not type(None)]
    is_union = type(None) in get_args(hints[name])
    return (kinds[0] if is_union else hints[name]) | None


def _repeated(hint: Any) -> Any:
    """What a tuple of any length holds, alone or in a union: an option that may be repeated."""
    for kind in (hint, *get_args(hint)):
        if get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis:
            return get_args(kind)[0]
    return None


def _parameter(
    field: "Field[Any]",
    hint: Any,
    doc: str,
    argument: str,
    parsers: Mapping[str, tuple[str, Callable[[str], Any]]],
) -> Any:
    if field.name == argument:
        return typer.Argument(help=doc, show_default=False)
    flag = "--" + field.name.replace("_", "-")
    if isinstance(field.default, bool):
        return typer.Option(f"{flag}/--no-{flag[2:]}", help=doc + _default(field))
    if _repeated(hint):
        return typer.Option(flag, help=doc, metavar=f"<{_repeated(hint).__name__.lower()}>")
    if field.name in parsers:
        return typer.Option(flag, help=doc, metavar=parsers[field.name][0])
    return typer.Option(flag, help=doc + _default(field))


def _default(field: "Field[Any]") -> str:
    """The default as help text; typer itself is shown None for all of them."""
    if field.default in (MISSING, None, "", "auto", ()):
        return ""
    if isinstance(field.default, bool):
        return f" [default: {'yes' if field.default else 'no'}]"
    return f" [default: {field.default}]"


def _field_docs(options: type) -> dict[str, str]:
    """The docstring under each field, those of the class's bases too."""
    docs: dict[str, str] = {}
    for kind in reversed(options.__mro__):
        if is_dataclass(kind):
            docs |= _own_field_docs(kind)
    return docs


def _own_field_docs(options: type) -> dict[str, str]:
    """The docstring under each field of a class, which Python itself does not keep."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(options))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, after in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            docs[statement.target.id] = " ".join(str(after.value.value).split())
    return docs
