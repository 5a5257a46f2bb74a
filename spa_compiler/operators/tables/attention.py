"""Fused attention: heads, the query heads of a key head, the two head sizes, rotary pairs.

    Attention (3-D)   b S (k r d), b T (k d), b T (k e) -> b S (k r e)     k="kv_num_heads", q_num_heads = (k r)

k: key heads; r: query heads of one key head; d: what queries and keys are compared in; e: what values carry. 1/sqrt(d)
is written down before d changes: it belongs to the trained weights, not to the size.
"""

from __future__ import annotations

import math

from spa_compiler.algebra.expr import Dim, Expr, Prod, Reason
from spa_compiler.errors import Conflict
from spa_compiler.operators.rule import rule
from spa_compiler.operators.site import Row, Rule, Site, Value
from spa_compiler.operators.traits import UNCOUNTED


def _scale(site: Site, d: Expr) -> None:
    if not site.attrs.get("scale", 0.0):
        site.defaults["scale"] = d, 1.0 / math.sqrt(d.size)


def _tie_cache(site: Site) -> None:
    """`p`, what a cache of keys carries, is `d`. In the rule it has a name of its own, because d is summed over."""
    env = site.scopes[-1].env
    if "p" in env:
        site.unify(env["p"], env["d"])


def _find_input(site: Site, slot: int) -> Value | None:
    return site.inputs[slot] if slot < len(site.inputs) else None


def _bias(value: Value | None, heads: str, count: int) -> str:
    """An attention bias [.., S, T] that may have one matrix per head."""
    rank = len(value.axes) if value is not None else 0
    per_head = value is not None and rank > 2 and value.shape[-3] == count and count > 1
    return " ".join(["_"] * (rank - 3) + [heads if per_head else "_"] + ["_", "_"]) if rank > 2 else "_"


def attention(site: Site) -> None:
    """ONNX Attention, opset 23 on: 3-D with head counts in attributes, or 4-D."""
    q, k = site.x(0), site.x(1)
    flat = len(q.axes) == 3
    groups = int(site.attrs["kv_num_heads"]) if flat else k.shape[1]
    heads = int(site.attrs["q_num_heads"]) if flat else q.shape[1]
    mask = _bias(_find_input(site, 3), "(k r)", heads)
    past = f"{mask}, b k _ p, b k _ e, _ -> "
    present = ", b k _ p, b k _ e, b (k r) _ _"
    if flat:
        rule(f"b S (k r d), b T (k d), b T (k e), {past}b S (k r e){present}", k="kv_num_heads")(site)
    else:
        rule(f"b (k r) S d, b k T d, b k T e, {past}b (k r) S e{present}")(site)
    env = site.scopes[-1].env
    _tie_cache(site)
    if flat:
        site.sizes["q_num_heads"] = Prod((env["k"], env["r"])) if heads != groups else env["k"]
    _scale(site, env["d"])


def rotary(operand_order: str) -> Rule:
    """RotaryEmbedding: dims 2i and 2i+1 (or i and i + half) of a head are one pair, which the tables know too."""

    def apply(site: Site) -> None:
        x = site.x()
        part = int(site.attrs.get("rotary_embedding_dim", 0))
        pair = "(e 2)" if site.attrs.get("interleaved", 0) else "(2 e)"
        head = f"{pair}+f" if part else pair
        tables = [v for v in (site.inputs[1:3] if operand_order == "tables" else site.inputs[2:4]) if v is not None]
        table = " ".join(["_"] * (len(tables[0].axes) - 1) + ["e"]) if tables else "_"
        operands = f"{table}, {table}, _" if operand_order == "tables" else f"_, {table}, {table}"
        if len(x.axes) == 4:
            rule(f"b h S {head}, {operands} -> b h S {head}")(site)
        elif int(site.attrs.get("num_heads", 0)):
            rule(f"b S (h {head}), {operands} -> b S (h {head})", h="num_heads")(site)
        else:
            raise Conflict("RotaryEmbedding does not say how many heads there are")
        if part:
            pairs = Dim(2, Reason.new("a rotary pair", site.name))
            site.sizes["rotary_embedding_dim"] = Prod((site.scopes[-1].env["e"], pairs))

    apply.__doc__ = '`b S (h 2 e), _ e, _ e -> b S (h 2 e)`, h="num_heads"; interleaved: `(h e 2)`'
    return apply


def microsoft_attention(site: Site) -> None:
    """com.microsoft Attention: one weight makes queries, keys and values, `(h d)+(h d)+(h e)`."""
    h = int(site.attrs["num_heads"])
    sizes = [int(s) for s in site.attrs.get("qkv_hidden_sizes", [])] or [site.x(1).shape[1] // 3] * 3
    if sizes[0] != sizes[1] or site.attrs.get("do_rotary", 0):
        raise Conflict("queries and keys of different sizes, or rotated in the operator")
    cached = _find_input(site, 4) is not None or len(site.outputs) > 1
    d, e = ("D", "E") if cached else ("d", "e")  # keys and values share one cache
    qkv = f"(h {d})+(h {d})+(h {e})"
    bias = _bias(_find_input(site, 5), "h", h)
    spec = f"b S i, i {qkv}, {qkv}, _, _ b h _ {d}, {bias}, _ -> b S (h {e}), _ b h _ {d}"
    rule(spec, known={d: sizes[0] // h, e: sizes[2] // h}, h="num_heads")(site)
    env = site.scopes[-1].env
    q, v = Prod((env["h"], env[d])), Prod((env["h"], env[e]))
    site.lists["qkv_hidden_sizes"] = (q, q, v)
    _scale(site, env[d])


def multi_head(site: Site) -> None:
    """com.microsoft MultiHeadAttention: separate, or packed as [B, T, h, 2 or 3, d], or keys as a cache."""
    h = int(site.attrs["num_heads"])
    q, k = site.x(0), _find_input(site, 1)
    bias = _bias(_find_input(site, 5), "h", h)
    rest = f", (h d)+(h d)+(h e), _, {bias}, b h _ p, b h _ e"
    present = ", b h _ p, b h _ e"
    if len(q.axes) == 5:
        rule(f"b S h 3 d, _, _, _, _, {bias} -> b S (h d)", h="num_heads")(site)
        site.freeze(site.scopes[-1].env["d"], "queries, keys and values are packed")
    elif k is not None and len(k.axes) == 5:
        rule(f"b S (h d), b T h 2 d, _, _, _, {bias} -> b S (h d)", h="num_heads")(site)
        site.freeze(site.scopes[-1].env["d"], "keys and values are packed")
    elif k is not None and len(k.axes) == 4:
        rule(f"b S (h d), b h T d, b h T e{rest} -> b S (h e){present}", h="num_heads")(site)
    else:
        rule(f"b S (h d), b T (h d), b T (h e){rest} -> b S (h e){present}", h="num_heads")(site)
    _tie_cache(site)
    _scale(site, site.scopes[-1].env["d"])


def grouped_query(site: Site) -> None:
    """com.microsoft GroupQueryAttention: heads may go, and head sizes in steps of 8 (rotated: 16), as it demands."""
    packed, table = _find_input(site, 1) is None, _find_input(site, 7)
    h, k = int(site.attrs["num_heads"]), int(site.attrs["kv_num_heads"])
    size = site.x(0).shape[-1] // (h + 2 * k if packed else h)
    rotated = bool(site.attrs.get("do_rotary", 0))
    step = 16 if rotated else 8
    free = size % step == 0 and (not rotated or (table is not None and 2 * table.shape[-1] == size))
    d, e = ("2 d 8", "2 e 8") if rotated else ("d 8", "e 8")
    if rotated and site.attrs.get("rotary_interleaved", 0):
        d = "d 8 2"
    d, e, known = (d, e, dict.fromkeys("dep", size // step)) if free else ("D", "E", dict.fromkeys("DE", size))
    first = f"b S (k r {d})+(k {d})+(k {e}), _, _" if packed else f"b S (k r {d}), b T (k {d}), b T (k {e})"
    half = "_ (d 8)" if rotated and free else "_"
    tables = f"_, _, {half}, {half}, _, {_bias(_find_input(site, 10), '(k r)', h)}, (k r)"
    caches = f"b k _ ({d.replace('d', 'p')}), b k _ ({e})"
    spec = f"{first}, {caches}, {tables} -> b S (k r {e}), {caches}"
    rule(spec, known={"r": h // k, **known}, k="kv_num_heads")(site)
    env = site.scopes[-1].env
    site.sizes["num_heads"] = Prod((env["k"], env["r"]))
    if free:  # the operator knows one head size
        site.unify(env["d"], env["e"])
        _tie_cache(site)
        _scale(site, Prod((env["d"], Dim(step))))


RULES: dict[str, Rule] = {"Attention": Row(attention, macs=UNCOUNTED), "RotaryEmbedding": rotary("tables")}
MICROSOFT_RULES: dict[str, Rule] = {
    "Attention": Row(microsoft_attention, macs=UNCOUNTED),
    "MultiHeadAttention": Row(multi_head, macs=UNCOUNTED, biased=True),
    "GroupQueryAttention": Row(grouped_query, macs=UNCOUNTED),
    "RotaryEmbedding": rotary("positions"),
}
