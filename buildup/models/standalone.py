"""A network as one Python file that needs torch and timm only.

The file's modules are the source text of our own, so there is one truth about what a block computes.
"""

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import timm
import torch

from buildup import __version__
from buildup.graph.fingerprint import fingerprint
from buildup.graph.layout import layout
from buildup.graph.network import Network
from buildup.models import blocks, stem
from buildup.models.attention import LocalAttention2d
from buildup.models.build import feature_config

IMPORTS = (
    ("from pathlib import", ("Path",)),
    ("from typing import", ("Any",)),
    ("", ()),
    ("import", ("timm",)),
    ("import", ("torch",)),
    ("import torch.nn.functional as", ("F",)),
    ("from timm.layers.evo_norm import", ("EvoNorm2dS0",)),
    ("from timm.layers.filter_response_norm import", ("FilterResponseNormTlu2d",)),
    ("from timm.layers.std_conv import", ("StdConv2d",)),
    ("from timm.models import", ("build_model_with_cfg", "generate_default_cfgs", "register_model")),
    ("from torch import", ("Tensor", "nn")),
)
"""All that the file may import; what its text does not name is left out."""

WEIGHTS = '"file": str(Path(__file__).with_name("model.safetensors"))'


def standalone(network: Network, config: Mapping[str, Any]) -> str:
    """The text of `alternet.py` for a network, with timm's `pretrained_cfg` for it.

    The weights are looked for in `model.safetensors` beside the file.
    """
    name = f"alternet_{fingerprint(network)}"
    with torch.device("meta"):
        base = timm.create_model(network.base, **dict(network.base_args))
    parts = [_data(network, name, config)]
    if network.replaced:
        # All blocks of a base are of one class, and the first is never replaced.
        form = blocks.FORMS[type(base.get_submodule(next(network.blocks).path))]
        parts += _sources(LocalAttention2d, form.block, blocks.norm_like, blocks.conv1x1_like, blocks.init_convs)
        parts += [*_sources(blocks.starts_as_identity), _attention_block(form)]
    shrink = stem.SMALL_STEMS[type(base)]
    if network.stem == "small":
        parts += _sources(shrink, stem.shrink_conv, stem.shrunk_features)
    body = "\n\n\n".join([*parts, _assembly(network, shrink.__name__), _entry(network, name)])
    return f'"""{_about(network, name)}"""\n\n{_imports(body)}\n\n{body}\n'


def _about(network: Network, name: str) -> str:
    replaced = ", ".join(network.replaced) or "no block"
    return f"""An AlterNet: {network.base} with self-attention in place of {replaced}.

Its layout is {layout(network)}, C for blocks of the base and M for self-attention.
It needs torch and timm; the weights are in model.safetensors beside this file.

    import timm, alternet

    model = alternet.load()
    model = timm.create_model("{name}", pretrained=True, num_classes=10)

Written by buildup {__version__}.
"""


def _imports(body: str) -> str:
    lines = []
    for head, names in IMPORTS:
        used = [name for name in names if re.search(rf"\b{name}\b", body)]
        if used or not names:
            lines.append(f"{head} {', '.join(used)}".strip())
    return "\n".join(lines)


def _data(network: Network, name: str, config: Mapping[str, Any]) -> str:
    lines = [f'NAME = "{name}"', f'BASE = "{network.base}"', f"BASE_ARGS: dict[str, Any] = {_text(network.base_args)}"]
    if added := _added(network):
        lines += ["", "# Blocks that the base lacks, each with the block of the base that it is made like."]
        lines += [f"ADDED = {_lines(added)}"]
    if network.replaced:
        lines += ["", "# Blocks that are self-attention."]
        lines += [f"ATTENTION = {_lines({path: asdict(kind) for path, kind in network.replaced.items()})}"]
    known = {key: value for key, value in config.items() if key != "architecture"}
    lines += ["", "default_cfgs = generate_default_cfgs(", "    {"]
    lines += [f"        NAME: {_lines(known, ' ' * 8, WEIGHTS)},", "    }", ")"]
    return "\n".join(lines)


def _added(network: Network) -> dict[str, str]:
    """Every added block's path, with that of the last block that the base itself has in that stage."""
    return {
        block.path: [own.path for own in stage.blocks if not own.added][-1]
        for stage in network.stages
        for block in stage.blocks
        if block.added
    }


def _lines(values: Mapping[str, Any], indent: str = "", *first: str) -> str:
    entries = [*first, *(f"{_text(key)}: {_text(value)}" for key, value in values.items())]
    return "\n".join(["{", *(f"{indent}    {entry}," for entry in entries), f"{indent}}}"])


def _text(value: Any) -> str:
    """A plain value as Python writes it, with double quotes."""
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)}: {_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        inner = ", ".join(_text(item) for item in value)
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return repr(value)


def _sources(*objects: type | Callable[..., Any]) -> list[str]:
    return [inspect.getsource(item).strip() for item in objects]


def _attention_block(form: blocks.Form) -> str:
    parts = "\n".join(f"        {name}=replaced.{part}," for name, part in form.parts.items())
    return f'''def attention_block(replaced: Any, **settings: int) -> nn.Module:
    """The block that takes the place of one of the base."""
    block = {form.block.__name__}(
        replaced.conv1.in_channels,
        expansion={form.expansion},
{parts}
        **settings,
    )
    if starts_as_identity(replaced):
        block.zero_init_last()
    return block.to(next(replaced.parameters()))'''


def _assembly(network: Network, shrink: str) -> str:
    lines = [
        "def edited(**arguments: Any) -> nn.Module:",
        '    """The base with all of its edits."""',
        "    arguments = BASE_ARGS | arguments",
        "    model = timm.create_model(BASE, **arguments)",
    ]
    if network.stem == "small":
        lines += [f"    {shrink}(model)"]
    if _added(network):
        lines += [
            "    for path, like in ADDED.items():",
            "        fresh = timm.create_model(BASE, **arguments)",
            "        put(model, path, fresh.get_submodule(like))",
        ]
    if network.replaced:
        lines += [
            "    for path, settings in ATTENTION.items():",
            "        put(model, path, attention_block(model.get_submodule(path), **settings))",
        ]
    lines += ["    return model"]
    if "put(" in "\n".join(lines):
        lines += [
            "",
            "",
            "def put(model: nn.Module, path: str, block: nn.Module) -> None:",
            '    """Let a block stand at a path of a model."""',
            '    parent, _, name = path.rpartition(".")',
            "    model.get_submodule(parent).add_module(name, block)",
        ]
    return "\n".join(lines)


def _entry(network: Network, name: str) -> str:
    return f'''@register_model
def {name}(pretrained: bool = False, **overrides: Any) -> nn.Module:
    """What timm calls to make the model."""
    return build_model_with_cfg(edited, NAME, pretrained, feature_cfg={_text(feature_config(network))}, **overrides)


def load(**overrides: Any) -> nn.Module:
    """The trained model in evaluation mode, with what `timm.create_model` takes beside the name."""
    return timm.create_model(NAME, pretrained=True, **overrides).eval()'''
