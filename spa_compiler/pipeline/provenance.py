"""Claims of a compiled file about itself, in its metadata: how it was made, and from which files.

    found = Provenance.read(model.header)
    found.pipeline, found.plan_sha256

None of it proves anything, for anybody can write it: it says which proof to make, and it can be refuted.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import onnx

from spa_compiler.errors import UsageError, VerificationError
from spa_compiler.pipeline.passes import Pipeline, iterate_deep
from spa_compiler.planning.plan import Plan

METADATA_PREFIX = "spa_compile."


@dataclass(frozen=True)
class Provenance:
    """The entries; '' for one that a file does not have."""

    version: str = ""
    pipeline: str = ""
    source_sha256: str = ""
    plan_sha256: str = ""
    seed: str = ""

    def write(self, proto: onnx.ModelProto) -> None:
        """Put the entries into a file, over those that it has."""
        for key, value in asdict(self).items():
            name = METADATA_PREFIX + key
            entry = next((p for p in proto.metadata_props if p.key == name), None) or proto.metadata_props.add(key=name)
            entry.value = value

    @classmethod
    def read(cls, header: onnx.ModelProto) -> Provenance:
        """The entries of a file."""
        held = {
            p.key.removeprefix(METADATA_PREFIX): p.value
            for p in header.metadata_props
            if p.key.startswith(METADATA_PREFIX)
        }
        return cls(**{f.name: held.get(f.name, "") for f in fields(cls)})

    def check_source(self, digest: str) -> None:
        """Raise VerificationError where the file was made from another one than that with this SHA-256."""
        if self.source_sha256 not in ("", digest):
            raise VerificationError(
                f"the file says that it was compiled from another model: source_sha256 is {self.source_sha256[:12]}... "
                f"and that of the dense model {digest[:12]}...; give the file that it was compiled from"
            )

    def check_plan(self, plan: Plan, whose: str) -> None:
        """Raise VerificationError where the file was made by another plan; `whose` says which this one is."""
        if self.plan_sha256 not in ("", plan.digest()):
            raise VerificationError(
                f"the file says that it was compiled by another plan: plan_sha256 is {self.plan_sha256[:12]}... and "
                f"that of {whose} {plan.digest()[:12]}...; --save-plan writes the plan of a compile"
            )

    def parse_pipeline(self) -> Pipeline | None:
        """The passes; None where there are none, or one of them is not installed here."""
        try:
            return Pipeline.parse(self.pipeline).complete() if self.pipeline else None
        except UsageError:
            return None

    def is_writing_norms(self) -> bool:
        """Does one of the passes say that it updates operands of normalisations?"""
        steps = self.parse_pipeline()
        every = () if steps is None else iterate_deep(steps.iterate_flat())
        return any(getattr(p, "is_writing_norms", False) for p in every)

    def is_solved(self) -> bool:
        """Does a pass change the model after its rewrite was proven? Also where a pass is not installed here."""
        steps = self.parse_pipeline() if self.pipeline else Pipeline(())
        if steps is None:
            return True
        proven, changed = steps.find_index("proof"), steps.find_index("model")
        return proven is not None and changed is not None and changed > proven
