"""Networks whose weights are looked up for every row."""

from __future__ import annotations

from zoo_base import Case

LOOKUPS = {
    "gather": "wa = Gather(w1, route)  wb = Gather(w2, route)",
    "nd": "r1 = Unsqueeze(route, last)  wa = GatherND(w1, r1)  wb = GatherND(w2, r1)",
}
ROUTED = (
    "(float[N,5] x, int64[N] route) => (float[N,4,1] y) {{ {lookups}  c = Unsqueeze(x, two)"
    "  h = MatMul(wa, c)  r = Relu(h)  y = MatMul(wb, r) }}"
)
TURNED = (
    "(float[N,5] x, int64[N] route) => (float[N,1,4] y) {{ {lookups}  c = Unsqueeze(x, one)"
    "  h = MatMul(c, wa)  r = Relu(h)  y = MatMul(r, wb) }}"
)
SIZES = {"one": [1], "two": [2], "last": [1]}


def routed_case(lookups: str, turned: bool) -> Case:
    weights = {"w1": (3, 5, 7), "w2": (3, 7, 4)} if turned else {"w1": (3, 7, 5), "w2": (3, 4, 7)}
    return Case((TURNED if turned else ROUTED).format(lookups=LOOKUPS[lookups]), {**weights, **SIZES}, None)
