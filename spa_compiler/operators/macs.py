"""Multiply-accumulates of a node, from its row in the operator tables (trait `macs`) and the axes of its rule.

list_products(site)      # [[n, (h w), (o), (i k k)]]: the MACs are the product of these sizes, as they are or pruned
"""

from __future__ import annotations

from spa_compiler.algebra.expr import Dim, Expr
from spa_compiler.operators.site import Site
from spa_compiler.operators.traits import EVERY_NAME, UNCOUNTED


def list_products(site: Site) -> list[list[Expr]] | None:
    """The axes of each product of a node, whose sizes multiply to its multiply-accumulates.

    Empty where it does not, or only constants; None where it does and the rule does not tell how often.
    """
    macs = site.traits.macs
    if not macs or (site.outputs and all(v is None or v.constant for v in site.outputs) and any(site.outputs)):
        return []
    if macs == UNCOUNTED or not site.scopes or site.first_output is None:
        return None
    scope = site.scopes[0]
    if macs == EVERY_NAME:
        return [scope.find_named()]
    return [[_parse_size(n, scope.env) for n in part.split()] for part in macs.split(",")]


def _parse_size(name: str, env: dict[str, Expr]) -> Expr:
    return Dim(int(name)) if name.isdigit() else env[name]
