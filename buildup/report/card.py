"""The model card of an exported network: its layout, scores, claim, decisions and settings, and how to load it."""

from statistics import fmean

from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.report.final_table import final_protocol, tabulate_final
from buildup.report.findings import Findings, cost_text, flat
from buildup.report.text_table import TextTable, code, decisions_markdown, graph_text
from buildup.report.words import clean, scores_text
from buildup.trials.objective import ACCURACY
from buildup.trials.outcome import Score

LOADING = """\
```python
import timm
import buildup.models  # registers the entry point

model = timm.create_model("local-dir:THIS_FOLDER", pretrained=True)
```

`alternet.py` in this folder defines the same network in one file. It needs torch and timm, but not buildup.

```python
from alternet import load

model = load()
```
"""

ONNX = """\
`model.onnx` is the same network for onnxruntime. It takes batches of any size, preprocessed as `config.json` says. It
takes other image sizes if its input has named height and width axes.

```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["logits"], {"images": images})  # float32, as a numpy array
```
"""


def model_card(findings: Findings, network: Network, exported: Score, *, onnx: bool = False) -> str:
    """The model card of a network of a search, as Markdown.

    Args:
        findings: the search.
        network: the exported candidate, which need not be the winner.
        exported: the score of the training whose weights are exported.
        onnx: whether the folder also holds an ONNX model.
    """
    dataset = str(findings.settings.get("dataset", ""))
    lines = [
        "---",
        "library_name: timm",
        "tags: [image-classification, timm, alternet, buildup]",
        "---",
        "",
        f"# {clean(network.base)} as `{clean(layout(network))}`",
        "",
        f"Derived from timm's {code(network.base)} by the build-up rule on {code(dataset)}. "
        f"{findings.headline if network is findings.winner else 'It is one candidate of the search, not its winner.'}",
        "",
        *("```", graph_text(network), "```", ""),
        *("## Scores", "", *_scores(findings, network, exported), ""),
        *(_final(findings) or [findings.claim]),
        findings.images,
        *[f"\n> {clean(warning)}" for warning in findings.warnings],
        "",
        *("## Usage", "", LOADING),
        *([ONNX] if onnx else []),
        *("## Decisions", "", decisions_markdown(findings.decisions), ""),
        "## Settings",
        "",
        *[f"- {clean(name)}: {code(str(value))}" for name, value in flat(findings.settings)],
        "",
    ]
    return "\n".join(lines)


def _scores(findings: Findings, network: Network, exported: Score) -> list[str]:
    objective = findings.objective
    value = f", at a {objective.title} of {objective.shown(objective.value(exported))}"
    rows = []
    for name, one in (("base", findings.base), ("this one", network)):
        scores = list(findings.scores(one).values())
        rows.append([name, scores_text(scores), objective.shown(fmean(scores)) if scores else "unknown"])
    table = TextTable(
        columns=(("network", "text"), (f"{objective.title}, every seed", "text"), ("mean", "text")), rows=rows
    )
    cost = findings.cost(network)
    return [
        f"These weights reach {exported.accuracy:.2f} % accuracy on {exported.images:,} validation images"
        f"{'' if objective is ACCURACY else value}. They are from the best seed, so this figure is overestimated; the "
        "means are less so.",
        "",
        *table.markdown(),
        *(["", f"{cost_text(cost)}."] if cost else []),
    ]


def _final(findings: Findings) -> list[str]:
    if (final := findings.final) is None:
        return []
    return [
        *("### Test scores", "", final.verdict, ""),
        *(*tabulate_final(final).markdown(), "", final_protocol(final), ""),
    ]
