"""`graph`: what there is to search, shown before anything is searched."""

from buildup.cli.output import AsJson, answer, reading


def graph(
    base: str,
    /,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    space: str = "alternet",
    layout: str | None = None,
    size: int | None = None,
    stem: str = "auto",
    format: str = "text",
    as_json: AsJson = False,
) -> int:
    """The staged graph of a base or a layout.

    Example: buildup graph resnet50 --dataset cifar100

    Args:
        base: A timm model.
        dataset: digits, cued-digits, cifar10, cifar100, folder:DIR, csv:FILE, torch/NAME, hfds/NAME or wds:DIR.
        data_dir: Where cifar10 and cifar100 are, or are downloaded to.
        space: What may be searched: a name that `buildup spaces` lists, or a YAML file.
        layout: Show this layout of the base, such as 'CC|CC|CM|CM'.
        size: Input size, where no dataset is given (default: 224).
        stem: auto (small at up to 64 px), small or base.
        format: text, json, dot or svg.
    """
    reading(base)
    from buildup.engine.problems import Problems
    from buildup.engine.staged_graph import staged_graph
    from buildup.graph.serialize import network_to_values
    from buildup.report.diagram import graph_dot, graph_svg
    from buildup.report.text_table import graph_text

    problems = Problems()
    form = problems.choice("format", format, "text", ("text", "json", "dot", "svg"))
    with problems.caught():
        network, tries = staged_graph(
            base, layout=layout, space=space, dataset=dataset, data_dir=data_dir, size=size, stem=stem
        )
    problems.raise_any()
    match form:
        case "dot":
            text = graph_dot(network)
        case "svg":
            text = graph_svg(network, base)
        case _:
            text = graph_text(network, tries)
    return answer(text, network_to_values(network), as_json=as_json or form == "json")
