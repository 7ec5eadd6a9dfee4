"""What templates and expressions say in branches that no sample takes: names nobody gives, files that are not there.

Pure, but for the reading of templates through their environment.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from jinja2 import Environment, TemplateNotFound, TemplateSyntaxError, meta, nodes

#: A name, and what it has; None: nobody can tell.
Known = Mapping[str, Collection[str] | None]

#: Stands in what a template writes where an expression does.
HOLE = "\ufffd"


class Source(NamedTuple):
    """A template's file, parsed."""

    place: str
    tree: nodes.Template


def sources(environment: Environment, place: str) -> tuple[list[Source], list[str]]:
    """Parse a template and all that it extends, imports and includes; list also what can't be."""
    found: dict[str, Source] = {}
    missing, waiting = [], [place]
    while waiting:
        if (at := waiting.pop()) in found or environment.loader is None:
            continue
        try:
            text, _, _ = environment.loader.get_source(environment, at)
            found[at] = Source(at, environment.parse(text, at))
        except TemplateNotFound:
            missing.append(f"{at}: The file is missing")
        except TemplateSyntaxError as exc:
            missing.append(f"{at}, line {exc.lineno}: {type(exc).__name__}")
        else:
            waiting += _references(found[at].tree)
    return list(found.values()), missing


def unknown(environment: Environment, files: Sequence[Source], known: Known) -> Iterator[str]:
    """Find names, filters and tests that nobody gives: certain faults, whoever comes to them."""
    given = {name for file in files for name in _given(file.tree)}
    for place, tree in files:
        try:
            free = meta.find_undeclared_variables(tree) - given
        except TemplateSyntaxError as exc:
            yield f"{place}, line {exc.lineno}: {exc.message}"
            continue
        asked = {*_asked(tree)}
        for node in tree.find_all((nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Test)):
            name = _name(node)
            if isinstance(node, nodes.Filter) and node.name not in environment.filters:
                yield f"{place}, line {node.lineno}: there is no filter {node.name}"
            elif isinstance(node, nodes.Test) and node.name not in environment.tests:
                yield f"{place}, line {node.lineno}: there is no test {node.name}"
            elif name and name not in asked and name[0] in free and not _is_there(name, known):
                yield f"{place}, line {node.lineno}: there is no {'.'.join(name)}"


def of_expression(environment: Environment, text: str, known: Known) -> Iterator[str]:
    """Find the same in one expression; nothing where it is none."""
    try:
        tree = environment.parse(f"{{{{ {text}\n}}}}")
    except TemplateSyntaxError:
        return
    yield from unknown(environment, [Source(text, tree)], known)


def literal(tree: nodes.Template) -> str:
    """Give what a template writes in all its branches, one after another."""
    parts = (part for output in tree.find_all(nodes.Output) for part in output.nodes)
    return "".join(part.data if isinstance(part, nodes.TemplateData) else HOLE for part in parts)


def _references(tree: nodes.Template) -> Iterator[str]:
    for node in tree.find_all((nodes.Extends, nodes.FromImport, nodes.Import, nodes.Include)):
        named = getattr(node, "template", None)
        if isinstance(named, nodes.Const) and not (isinstance(node, nodes.Include) and node.ignore_missing):
            yield str(named.value)


def _given(tree: nodes.Template) -> Iterator[str]:
    """Name what a file itself gives a value: also for another that it extends or that imports it."""
    yield from (node.name for node in tree.find_all(nodes.Name) if node.ctx != "load")
    yield from (node.name for node in tree.find_all(nodes.Macro))
    yield from (node.target for node in tree.find_all(nodes.Import))
    for node in tree.find_all(nodes.FromImport):
        yield from (each if isinstance(each, str) else each[1] for each in node.names)


def _asked(tree: nodes.Template) -> Iterator[tuple[str, ...]]:
    """Name what a file asks for before it uses it: it may well not be there."""
    for test in tree.find_all(nodes.Test):
        if test.name in ("defined", "undefined"):
            yield _name(test.node) or ()
    for filtered in tree.find_all(nodes.Filter):
        if filtered.name in ("default", "d") and filtered.node is not None:
            yield _name(filtered.node) or ()
    for compared in tree.find_all(nodes.Compare):
        for operand in compared.ops:
            if isinstance(compared.expr, nodes.Const) and isinstance(operand.expr, nodes.Name):
                yield operand.expr.name, str(compared.expr.value)


def _name(node: nodes.Node) -> tuple[str, ...] | None:
    """Read `name`, `name.attribute` or `name["attribute"]`."""
    match node:
        case nodes.Name():
            return (node.name,)
        case nodes.Getattr(node=nodes.Name() as owner):
            return owner.name, node.attr
        case nodes.Getitem(node=nodes.Name() as owner, arg=nodes.Const(value=str(key))):
            return owner.name, key
    return None


def _is_there(name: tuple[str, ...], known: Known) -> bool:
    if name[0] not in known:
        return len(name) > 1  # its bare name stands there too, and is said once
    has = known[name[0]]
    return len(name) == 1 or has is None or name[1] in has
