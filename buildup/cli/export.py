"""`buildup export`."""

from typing import Annotated

from buildup.cli.output import AsJson, Flags, answer
from buildup.settings import ExportSettings


def export(
    run: str,
    /,
    settings: Annotated[ExportSettings, Flags] = ExportSettings(),
    *,
    as_json: AsJson = False,
) -> int:
    """Write the discovered network as a timm model.

    Example: buildup export demo --to alternet-digits

    Args:
        run: A name in runs/, or a run's folder.
    """
    from buildup.engine.export import export_candidate
    from buildup.store.run_record import open_record

    record = open_record(run)
    candidate = export_candidate(record, settings)
    values = {"folder": settings.to, "layout": candidate.layout, "fingerprint": candidate.id}
    lines = [
        f"{settings.to}: {record.settings.base} as {candidate.layout}, read back with equal logits.",
        f"  import buildup.models, timm; timm.create_model('local-dir:{settings.to}', pretrained=True)",
        f"  or, with torch and timm alone, {settings.to.rstrip('/')}/alternet.py",
    ]
    if settings.onnx:
        lines.append(f"  or, with onnxruntime, {settings.to.rstrip('/')}/model.onnx")
    return answer("\n".join(lines), values, as_json=as_json)
