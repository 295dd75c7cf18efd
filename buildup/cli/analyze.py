"""`analyze`: the paper's measurements on a run's network or any model of timm, as numbers and figures."""

from typing import Annotated

from buildup.cli.output import AsJson, Flags, answer, interruptible, reading
from buildup.settings import AnalyzeSettings


def analyze(
    model: str, /, settings: Annotated[AnalyzeSettings, Flags] = AnalyzeSettings(), *, as_json: AsJson = False
) -> int:
    """The paper's measurements on a run's network or any model of timm; the same command goes on after a stop.

    Example: buildup analyze demo --compare demo:0 --what hessian,fourier --quick

    Args:
        model: A run, RUN:CANDIDATE, the folder of a training or an export, or a timm model. Of a run or a training also
            a phase that its recipe kept: TRAINING@warmup, RUN:CANDIDATE@100, or TRAINING@all for all of them. Of a
            candidate also another seed than its first one: RUN:CANDIDATE/s2.
    """
    reading(model)
    if settings.verdicts:
        from buildup.engine.analysis.verdicts import diagnose_verdicts, diagnosed_values
        from buildup.report.diagnostic_table import evidence_text

        with interruptible():
            diagnosed = diagnose_verdicts(model, settings)
        kept = ", ".join(map(str, diagnosed.files))
        text = f"{evidence_text(diagnosed.evidence)}\n\nKept in {kept}; `buildup report` of a run shows its own."
        return answer(text, diagnosed_values(diagnosed), as_json=as_json)

    from buildup.engine.analysis.analyze import analysis_values, analyze_model

    with interruptible():
        found = analyze_model(model, settings)
    lines = []
    for what, summaries in found.summaries.items():
        for label, numbers in summaries.items():
            if not isinstance(numbers, str):
                shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in numbers.items()}
                numbers = "  ".join(f"{name} {value}" for name, value in shown.items()) or "no summary, see its table"
            lines.append(f"{what:12} {label}: {numbers}")
    lines.append(f"Numbers and figures: {found.folder}, all of them in {found.folder / 'index.html'}")
    return answer("\n".join(lines), analysis_values(found), as_json=as_json)
