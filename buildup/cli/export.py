"""`buildup export`."""

from typing import Annotated

from buildup.cli.output import AsJson, Flags, RunName, answer
from buildup.settings import ExportSettings


def export(
    run: RunName, /, settings: Annotated[ExportSettings, Flags] = ExportSettings(), *, as_json: AsJson = False
) -> int:
    """Write the discovered network as a timm model.

    Example: buildup export demo --to alternet-digits
    """
    from buildup.engine.export import export_candidate
    from buildup.store.run_record import open_record

    record = open_record(run)
    candidate = export_candidate(record, settings)
    values = {"folder": settings.to, "layout": candidate.layout, "fingerprint": candidate.id}
    folder = settings.to.rstrip("/")
    lines = [
        f"{settings.to}: {record.settings.base} as {candidate.layout}, read back with equal logits.",
        f"  import buildup.models, timm; timm.create_model({f'local-dir:{settings.to}'!r}, pretrained=True)",
        f"  or, with torch and timm alone, {folder}/alternet.py",
        *([f"  or, with onnxruntime, {folder}/model.onnx"] if settings.onnx else []),
    ]
    return answer("\n".join(lines), values, as_json=as_json)
