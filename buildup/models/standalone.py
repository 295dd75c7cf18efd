"""A network as one Python file that needs torch and timm only.

The file's modules and functions are the source text of our own, so there is one truth about what a block computes.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from timm.models import is_notrace_module

from buildup import __version__
from buildup.graph.kinds import known_kinds
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.graph.serialize import fingerprint
from buildup.models.blocks import maker, module_class
from buildup.models.build import feature_config, put
from buildup.models.python_source import Call, Name, written
from buildup.models.source import Import, Sources, import_lines
from buildup.models.stem import shrink

ALWAYS = (
    Import("pathlib", "Path"),
    Import("typing", "Any"),
    Import("timm"),
    Import("timm.models", "build_model_with_cfg"),
    Import("timm.models", "generate_default_cfgs"),
    Import("timm.models", "register_model"),
    Import("torch", "nn"),
)
"""What every file imports."""

PLAIN = str.maketrans({"×": "x", "’": "'"})
"""Code is plain ASCII where it can be."""


def standalone(network: Network, config: Mapping[str, Any]) -> str:
    """The text of `alternet.py` for a network, with timm's `pretrained_cfg` for it.

    The weights are looked for in `model.safetensors` beside the file.
    """
    name = f"alternet_{fingerprint(network)}"
    sources = Sources(imports={one.bound: one for one in ALWAYS})
    replacements = [*_replacements(network, sources)]
    if network.shrunk:
        sources.name(shrink)
    if network.replaced or _added(network):
        sources.name(put)
    notraced = [*_notraced(network, sources)]
    body = "\n\n\n".join(
        [
            _data(network, name, config),
            *sources.texts.values(),
            *notraced,
            *replacements,
            _assembly(network),
            _entry(network, name),
        ]
    )
    return f'"""{_about(network, name)}"""\n\n{import_lines(sources.imports.values())}\n\n{body}\n'


def _replacements(network: Network, sources: Sources) -> Iterator[str]:
    """What makes the block at each path out of the one that it replaces."""
    made = {block.path: maker(block) for block in network.blocks if block.path in network.replaced}
    if made:
        sources.imports["Callable"] = Import("collections.abc", "Callable")
        sources.imports["partial"] = Import("functools", "partial")
        about = "# What stands in place of the base's own blocks: each is made from the block that it replaces."
        calls = {path: _expression(make, sources) for path, make in made.items()}
        yield f"{about}\n{written(calls, 'REPLACED: dict[str, Callable[[Any], nn.Module]] = ')}"


def _expression(value: Any, sources: Sources) -> Any:
    """A value for `written`, with all that it names in the sources."""
    if isinstance(value, partial):
        assert not value.args
        named = {name: _expression(one, sources) for name, one in value.keywords.items()}
        return Call("partial", (_expression(value.func, sources),), named)
    return Name(sources.name(value)) if callable(value) else value


def _notraced(network: Network, sources: Sources) -> Iterator[str]:
    layers = dict.fromkeys(module_class(kind) for kind in network.replaced.values())
    calls = [f"register_notrace_module({sources.name(layer)})" for layer in layers if is_notrace_module(layer)]
    if calls:
        sources.imports["register_notrace_module"] = Import("timm.models", "register_notrace_module")
        yield "\n".join(["# timm's feature extraction by fx can't follow these, and takes each as one step.", *calls])


def _about(network: Network, name: str) -> str:
    letters = layout(network)
    there = [kind for letter, kind in known_kinds().items() if letter in letters]
    legend = [f"    {kind.letter}  {kind.label.translate(PLAIN)}" for kind in there]
    changed = network.replaced or _added(network)
    lines = [
        f"An AlterNet: timm's {network.base}{' with other blocks' if changed else ' as it is'}.",
        "",
        f"Its layout is {letters}, one letter a block:",
        "",
        *legend,
        "",
        "It needs torch and timm; the weights are in model.safetensors beside this file.",
        "",
        "    import timm, alternet",
        "",
        "    model = alternet.load()",
        f'    model = timm.create_model("{name}", pretrained=True, num_classes=10)',
        "",
        f"Written by buildup {__version__}.",
        "",
    ]
    return "\n".join(lines)


def _data(network: Network, name: str, config: Mapping[str, Any]) -> str:
    values = [f'NAME = "{name}"', f'BASE = "{network.base}"']
    if network.base_args:
        values += [written(dict(network.base_args), "BASE_ARGS: dict[str, Any] = ")]
    if network.shrunk:
        values += ["", "# What the stem for small images changes.", written(dict(network.shrunk), "SHRUNK = ")]
    if added := _added(network):
        values += ["", "# Blocks that the base lacks, each with the block of the base that it is made like."]
        values += [written(added, "ADDED = ")]
    weights = Name('str(Path(__file__).with_name("model.safetensors"))')
    known = {"file": weights, **{key: value for key, value in config.items() if key != "architecture"}}
    configs = Call("generate_default_cfgs", ({Name("NAME"): known},))
    return "\n".join([*values, "", written(configs, "default_cfgs = ")])


def _added(network: Network) -> dict[str, str]:
    """Every added block's path, with that of the last block that the base itself has in that stage."""
    return {
        block.path: [own.path for own in stage.blocks if not own.added][-1]
        for stage in network.stages
        for block in stage.blocks
        if block.added
    }


def _assembly(network: Network) -> str:
    given = "**(BASE_ARGS | arguments)" if network.base_args else "**arguments"
    added, replaced = _added(network), network.replaced
    lines = [
        "def edited(**arguments: Any) -> nn.Module:",
        '    """The base with all of its edits."""',
        f"    model: nn.Module = timm.create_model(BASE, {given})",
    ]
    if network.shrunk:
        lines += ["    shrink(model, SHRUNK)"]
    if added:
        lines += [
            "    for path, like in ADDED.items():",
            f"        fresh = timm.create_model(BASE, {given})",
            "        put(model, path, fresh.get_submodule(like))",
        ]
    if replaced:
        lines += [
            "    for path, make in REPLACED.items():",
            "        put(model, path, make(model.get_submodule(path)))",
        ]
    return "\n".join([*lines, "    return model"])


def _entry(network: Network, name: str) -> str:
    features = written(feature_config(network), "features = ", indent="    ")
    return f'''@register_model
def {name}(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """What timm calls to make the model."""
    {features}
    model: nn.Module = build_model_with_cfg(edited, NAME, pretrained, feature_cfg=features, **overrides)
    return model


def load(**overrides: Any) -> nn.Module:
    """The trained model in evaluation mode, with what `timm.create_model` takes beside the name."""
    return timm.create_model(NAME, pretrained=True, **overrides).eval()'''
