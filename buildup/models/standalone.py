"""A network as one Python file that needs torch and timm only.

The file's modules are the source text of our own, so there is one truth about what a block computes.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

from buildup import __version__
from buildup.graph.block_style import BlockStyle, Norm
from buildup.graph.fingerprint import fingerprint
from buildup.graph.kinds import KINDS, Conv, ConvAttention, GlobalAttention, Kind, LocalAttention, Smoothing
from buildup.graph.layout import layout
from buildup.graph.network import Block, Network
from buildup.models import blocks, stem
from buildup.models.attention import ConvAttention2d, GlobalAttention2d, LocalAttention2d
from buildup.models.build import feature_config
from buildup.models.python_source import Call, Name, written
from buildup.models.smoothing import Smoothing2d

IMPORTS = (
    ("from collections.abc import", ("Callable", "Mapping")),
    ("from functools import", ("partial",)),
    ("from math import", ("gcd",)),
    ("from pathlib import", ("Path",)),
    ("from typing import", ("Any",)),
    ("", ()),
    ("import", ("timm",)),
    ("import", ("torch",)),
    ("import torch.nn.functional as", ("F",)),
    ("from timm.layers.filter_response_norm import", ("FilterResponseNormTlu2d",)),
    ("from timm.layers.norm import", ("LayerNorm2d", "RmsNorm2d")),
    ("from timm.layers.std_conv import", ("StdConv2d",)),
    (
        "from timm.models import",
        ("build_model_with_cfg", "generate_default_cfgs", "register_model", "register_notrace_module"),
    ),
    ("from torch import", ("Tensor", "nn")),
)
"""All that the file may import; what its text does not name is left out."""

LAYERS: dict[type[Kind], type] = {
    LocalAttention: LocalAttention2d,
    GlobalAttention: GlobalAttention2d,
    ConvAttention: ConvAttention2d,
    Smoothing: Smoothing2d,
}

WORDS: dict[type[Kind], str] = {
    Conv: "a block of the base",
    LocalAttention: "local self-attention",
    GlobalAttention: "global self-attention",
    ConvAttention: "convolution-shaped self-attention",
    Smoothing: "spatial smoothing",
}

FORMS = {"pre": blocks.PreActAttentionBlock, "post": blocks.PostActAttentionBlock}

PUT = '''def put(model: nn.Module, path: str, block: nn.Module) -> None:
    """Let a block stand at a path of a model."""
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent).add_module(name, block)'''


def standalone(network: Network, config: Mapping[str, Any]) -> str:
    """The text of `alternet.py` for a network, with timm's `pretrained_cfg` for it.

    The weights are looked for in `model.safetensors` beside the file.
    """
    name = f"alternet_{fingerprint(network)}"
    makers = _makers(network)
    body = "\n\n\n".join(
        [
            _data(network, name, config),
            *_sources(_named(network, makers)),
            *_notraced(network),
            *(_maker(maker, *key) for key, maker in makers.items()),
            *_replacements(network, makers),
            *_assembly(network),
            _entry(network, name),
        ]
    )
    return f'"""{_about(network, name)}"""\n\n{_imports(body)}\n\n{body}\n'


Makers = dict[tuple[bool, BlockStyle], str]
"""The functions that make blocks by name, one for each form of attention and of smoothing."""


def _makers(network: Network) -> Makers:
    names: Makers = {}
    for block, kind in _replaced(network):
        word = "smoothing" if isinstance(kind, Smoothing) else "attention_block"
        alike = sum(name.startswith(word) for name in names.values())
        names.setdefault(_key(block, kind), f"{word}_{alike + 1}" if alike else word)
    return names


def _key(block: Block, kind: Kind) -> tuple[bool, BlockStyle]:
    assert block.style is not None
    return isinstance(kind, Smoothing), block.style


def _replaced(network: Network) -> Iterator[tuple[Block, Kind]]:
    replaced = network.replaced
    return ((block, replaced[block.path]) for block in network.blocks if block.path in replaced)


def _named(network: Network, makers: Makers) -> Iterator[type | Callable[..., Any]]:
    """What of our own the file needs."""
    yield from _layers(network)
    yield from dict.fromkeys(FORMS[style.order] for is_smoothing, style in makers if not is_smoothing)
    if any(style.channels_last for _, style in makers):
        yield blocks.ChannelsLast
    if not all(is_smoothing for is_smoothing, _ in makers):
        yield from (blocks.init_convs, blocks.starts_as_identity)
    if network.shrunk:
        yield from (stem.shrink, stem.shrink_conv)


def _layers(network: Network) -> list[type]:
    return list(dict.fromkeys(LAYERS[type(kind)] for _, kind in _replaced(network)))


def _sources(objects: Iterable[type | Callable[..., Any]]) -> list[str]:
    """Their texts, each behind those of the functions that it calls."""
    found: dict[str, str] = {}

    def add(item: Any) -> None:
        text = inspect.getsource(item).strip()
        home = vars(sys.modules[item.__module__])
        for name in re.findall(r"\b[a-z_]\w*(?=\()", text):
            called = home.get(name)
            if inspect.isfunction(called) and called.__module__ == item.__module__ and called is not item:
                add(called)
        found.setdefault(item.__name__, text)

    for item in objects:
        add(item)
    return list(found.values())


def _notraced(network: Network) -> Iterator[str]:
    calls = [f"register_notrace_module({layer.__name__})" for layer in _layers(network) if layer is not Smoothing2d]
    if calls:
        yield "\n".join(["# timm's feature extraction by fx can't follow these, and takes each as one step.", *calls])


def _about(network: Network, name: str) -> str:
    letters = layout(network)
    legend = [f"    {letter}  {WORDS[kind]}" for letter, kind in KINDS.items() if letter in letters]
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


def _imports(body: str) -> str:
    lines = []
    for head, names in IMPORTS:
        used = [name for name in names if re.search(rf"\b{name}\b", body)]
        if used or not names:
            lines.append(f"{head} {', '.join(used)}".strip())
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


def _maker(name: str, is_smoothing: bool, style: BlockStyle) -> str:
    """The text of the function that makes blocks of one form."""
    wrapped = "ChannelsLast({})" if style.channels_last else "{}"
    if is_smoothing:
        return f'''def {name}(replaced: nn.Module, **settings: Any) -> nn.Module:
    """Smoothing in place of a block of the base."""
    return {wrapped.format("Smoothing2d(**settings)")}'''
    parts = {"drop_path": style.drop_path} | ({"scale": style.scale} if style.order == "pre" else {"act": style.act})
    arguments = "\n".join(f"        {part}={_inside(path)}," for part, path in parts.items())
    return f'''def {name}(layer: type[nn.Module], replaced: Any, *, chs: int, width: int, **settings: Any) -> nn.Module:
    """Self-attention in place of a block of the base, with the habits of that block."""

    def conv(in_chs: int, out_chs: int) -> nn.Module:
        return {_conv(style.standardised)}

    def norm(chs: int) -> nn.Module:
        return {_norm(style.norm)}

    block = {FORMS[style.order].__name__}(
        chs,
        width,
        layer(width, chs, **settings),
        conv=conv,
        norm=norm,
{arguments}
    )
    if starts_as_identity(replaced):
        block.zero_init_last()
    return {wrapped.format("block")}.to(next(replaced.parameters()))'''


def _inside(path: str) -> str:
    """The part of a replaced block that a path leads to, as an expression."""
    names = (f"[{name}]" if name.isdecimal() else f".{name}" for name in path.split("."))
    return f"replaced{''.join(names)}" if path else "None"


def _conv(standardised: float | None) -> str:
    if standardised is None:
        return "nn.Conv2d(in_chs, out_chs, 1, bias=False)"
    return f"StdConv2d(in_chs, out_chs, 1, eps={standardised})"


def _norm(norm: Norm) -> str:
    return {
        "batch": f"nn.BatchNorm2d(chs, eps={norm.eps}, momentum={norm.momentum})",
        "group": f"nn.GroupNorm(gcd({norm.groups or 32}, chs), chs, eps={norm.eps})",
        "layer": f"LayerNorm2d(chs, eps={norm.eps})",
        "rms": f"RmsNorm2d(chs, eps={norm.eps})",
        "frn": f"FilterResponseNormTlu2d(chs, apply_act=False, eps={norm.eps})",
    }[norm.kind]


def _replacements(network: Network, makers: Makers) -> Iterator[str]:
    """What makes the block at each path out of the one that it replaces."""
    calls = {
        block.path: Call("partial", _made_by(block, kind, makers), _settings(block, kind))
        for block, kind in _replaced(network)
    }
    if calls:
        about = "# What stands in place of the base's own blocks: each is made from the block that it replaces."
        yield f"{about}\n{written(calls, 'REPLACED: dict[str, Callable[[Any], nn.Module]] = ')}"


def _made_by(block: Block, kind: Kind, makers: Makers) -> tuple[Name, ...]:
    maker, layer = Name(makers[_key(block, kind)]), Name(LAYERS[type(kind)].__name__)
    return (maker,) if isinstance(kind, Smoothing) else (maker, layer)


def _settings(block: Block, kind: Kind) -> dict[str, Any]:
    """What a maker is given beside the replaced block: all that is not the layer's own default."""
    usual = {name: told.default for name, told in inspect.signature(LAYERS[type(kind)]).parameters.items()}
    settings = {name: value for name, value in asdict(kind).items() if name != "width" and value != usual[name]}
    if isinstance(kind, Smoothing):
        return settings
    return {"chs": block.in_shape[0], "width": blocks.width_of(block), **settings}


def _assembly(network: Network) -> Iterator[str]:
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
    yield "\n".join([*lines, "    return model"])
    if added or replaced:
        yield PUT


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
