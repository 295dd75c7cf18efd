"""A network as one Python file that needs torch and timm only.

Its modules and functions are copied from buildup's own source text, so both compute the same.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from timm.models import is_notrace_module

from buildup import __version__
from buildup.graph.kinds import known_kinds
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.graph.serialize import fingerprint
from buildup.models.blocks import block_factory, module_class
from buildup.models.build import feature_config
from buildup.models.source import Expression, FunctionCall, Import, Sources, import_lines, to_source
from buildup.models.stem import apply_small_stem

ALWAYS = (
    Import("pathlib", "Path"),
    Import("typing", "Any"),
    Import("timm"),
    Import("timm.models", "build_model_with_cfg"),
    Import("timm.models", "generate_default_cfgs"),
    Import("timm.models", "register_model"),
    Import("torch", "nn"),
)
"""The imports of every file."""

PLAIN = str.maketrans({"×": "x", "’": "'"})
"""Characters of block labels that ASCII lacks."""


def standalone(network: Network, config: Mapping[str, Any]) -> str:
    """The text of `alternet.py` for a network, with timm's `pretrained_cfg` for it.

    The file loads its weights from `model.safetensors` beside it.
    """
    name = f"alternet_{fingerprint(network)}"
    # The path of each added block, with that of the last block of the base itself in that stage.
    added = {
        block.path: [own.path for own in stage.blocks if not own.added][-1]
        for stage in network.stages
        for block in stage.blocks
        if block.added
    }
    sources = Sources(imports={one.bound: one for one in ALWAYS})
    replacements = _replacements(network, sources)
    if network.shrunk:
        sources.name(apply_small_stem)
    layers = dict.fromkeys(module_class(kind) for kind in network.replaced.values())
    notraced = [f"register_notrace_module({sources.name(layer)})" for layer in layers if is_notrace_module(layer)]
    if notraced:
        sources.imports["register_notrace_module"] = Import("timm.models", "register_notrace_module")
        notraced.insert(0, "# timm's feature extraction by fx cannot trace these; each is a leaf.")
    parts = [
        _data(network, name, added, config),
        *sources.texts.values(),
        "\n".join(notraced),
        replacements,
        _assembly(network, added),
        _entry(network, name),
    ]
    body = "\n\n\n".join(part for part in parts if part)
    imports = import_lines(sources.imports.values())
    return f'"""{_about(network, name, bool(network.replaced or added))}"""\n\n{imports}\n\n{body}\n'


def _replacements(network: Network, sources: Sources) -> str:
    """The source of a dict, by path, of functions that make a new block from the one that it replaces."""
    factories = {block.path: block_factory(block) for block in network.blocks if block.path in network.replaced}
    if not factories:
        return ""
    sources.imports["Callable"] = Import("collections.abc", "Callable")
    sources.imports["partial"] = Import("functools", "partial")
    calls = {path: _expression(factory, sources) for path, factory in factories.items()}
    return (
        "# The blocks that replace the base's own. Each is made from the block that it replaces.\n"
        f"{to_source(calls, 'REPLACED: dict[str, Callable[[Any], nn.Module]] = ')}"
    )


def _expression(value: Any, sources: Sources) -> Any:
    """A value for `to_source`; adds all that it names to the sources."""
    if isinstance(value, partial):
        assert not value.args
        named = {name: _expression(one, sources) for name, one in value.keywords.items()}
        return FunctionCall("partial", (_expression(value.func, sources),), named)
    return Expression(sources.name(value)) if callable(value) else value


def _about(network: Network, name: str, changed: bool) -> str:
    letters = layout(network)
    kinds = [kind for letter, kind in known_kinds().items() if letter in letters]
    legend = "\n".join(f"    {kind.letter}  {kind.label.translate(PLAIN)}" for kind in kinds)
    return f"""An AlterNet: timm's {network.base}{" with other blocks" if changed else " as it is"}.

Its layout is {letters}, one letter a block:

{legend}

It needs torch and timm; the weights are in model.safetensors beside this file.

    import timm, alternet

    model = alternet.load()
    model = timm.create_model("{name}", pretrained=True, num_classes=10)

Written by buildup {__version__}.
"""


def _data(network: Network, name: str, added: Mapping[str, str], config: Mapping[str, Any]) -> str:
    values = [f'NAME = "{name}"', f'BASE = "{network.base}"']
    if network.base_args:
        values += [to_source(dict(network.base_args), "BASE_ARGS: dict[str, Any] = ")]
    if network.shrunk:
        values += ["", "# What the stem for small images changes.", to_source(dict(network.shrunk), "SHRUNK = ")]
    if added:
        values += ["", "# Added blocks, each with the block of the base that it is made like."]
        values += [to_source(added, "ADDED = ")]
    weights = Expression('str(Path(__file__).with_name("model.safetensors"))')
    known = {"file": weights, **config}
    configs = FunctionCall("generate_default_cfgs", ({Expression("NAME"): known},))
    return "\n".join([*values, "", to_source(configs, "default_cfgs = ")])


def _assembly(network: Network, added: Mapping[str, str]) -> str:
    given = "**(BASE_ARGS | arguments)" if network.base_args else "**arguments"
    lines = [
        "def edited(**arguments: Any) -> nn.Module:",
        '    """The base with all of its edits."""',
        f"    model: nn.Module = timm.create_model(BASE, {given})",
    ]
    if network.shrunk:
        lines += ["    apply_small_stem(model, SHRUNK)"]
    if added:
        lines += [
            "    for path, like in ADDED.items():",
            f"        fresh = timm.create_model(BASE, {given})",
            "        model.set_submodule(path, fresh.get_submodule(like))",
        ]
    if network.replaced:
        lines += [
            "    for path, make in REPLACED.items():",
            "        model.set_submodule(path, make(model.get_submodule(path)))",
        ]
    return "\n".join([*lines, "    return model"])


def _entry(network: Network, name: str) -> str:
    features = to_source(feature_config(network), "features = ", indent="    ")
    return f'''@register_model
def {name}(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """timm's entry point of the model."""
    {features}
    model: nn.Module = build_model_with_cfg(edited, NAME, pretrained, feature_cfg=features, **overrides)
    return model


def load(**overrides: Any) -> nn.Module:
    """The trained model in evaluation mode; the arguments are those of `timm.create_model`."""
    return timm.create_model(NAME, pretrained=True, **overrides).eval()'''
