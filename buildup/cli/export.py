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
    candidate, source = export_candidate(record, settings)
    values = {"folder": settings.to, "layout": candidate.layout, "fingerprint": candidate.id}
    lines = [
        f"{settings.to or settings.push}: {record.settings.base} as {candidate.layout}, read back with equal logits.",
        f"  import buildup.models, timm; timm.create_model({source!r}, pretrained=True)",
    ]
    if settings.push:
        values["source"] = source
    folder = settings.to or (source.removeprefix("local-dir:") if source.startswith("local-dir:") else "")
    if folder := folder.rstrip("/"):
        lines.append(f"  or, with torch and timm alone, {folder}/alternet.py")
        lines += [f"  or, with onnxruntime, {folder}/model.onnx"] if settings.onnx else []
    return answer("\n".join(lines), values, as_json=as_json)
