"""plusx: residual networks, y = act(F(x) + x): design one, know its cost, train it, trust it, ship it.

Every public name is listed here and imported when it is first used: `import plusx` is quick and imports no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plusx.bench import bench as bench
    from plusx.blocks import Bottleneck as Bottleneck
    from plusx.blocks import BuildingBlock as BuildingBlock
    from plusx.blocks import ConvBlock as ConvBlock
    from plusx.catalogue import runs as runs
    from plusx.checkpoint import Weights as Weights
    from plusx.compare import compare as compare
    from plusx.cost import Cost as Cost
    from plusx.cost import cost as cost
    from plusx.design import BottleneckSpec as BottleneckSpec
    from plusx.design import BuildingSpec as BuildingSpec
    from plusx.design import DeepStem as DeepStem
    from plusx.design import Design as Design
    from plusx.design import Head as Head
    from plusx.design import ImageNetStem as ImageNetStem
    from plusx.design import SmallStem as SmallStem
    from plusx.design import Stage as Stage
    from plusx.dialects import convert as convert
    from plusx.dialects import identify as identify
    from plusx.dialects import load as load
    from plusx.draw import draw as draw
    from plusx.engines import open_engine as open_engine
    from plusx.errors import PlusxError as PlusxError
    from plusx.evaluate import evaluate as evaluate
    from plusx.explain import explain as explain
    from plusx.export import export as export
    from plusx.families import design as design
    from plusx.families import names as list  # noqa: F401
    from plusx.hub import push as push
    from plusx.network import Network as Network
    from plusx.network import build as build
    from plusx.predict import predict as predict
    from plusx.recipe import Recipe as Recipe
    from plusx.report import report as report
    from plusx.scale import scale as scale
    from plusx.serve import serve as serve
    from plusx.show import show as show
    from plusx.studies import study as study
    from plusx.surgery import fold as fold
    from plusx.train import train as train

__version__ = "0.1.0"

_HOMES = {
    "Bottleneck": "blocks",
    "BottleneckSpec": "design",
    "BuildingBlock": "blocks",
    "BuildingSpec": "design",
    "ConvBlock": "blocks",
    "Cost": "cost",
    "DeepStem": "design",
    "Design": "design",
    "Head": "design",
    "ImageNetStem": "design",
    "Network": "network",
    "PlusxError": "errors",
    "Recipe": "recipe",
    "SmallStem": "design",
    "Stage": "design",
    "Weights": "checkpoint",
    "bench": "bench",
    "build": "network",
    "compare": "compare",
    "convert": "dialects",
    "cost": "cost",
    "design": "families",
    "draw": "draw",
    "evaluate": "evaluate",
    "explain": "explain",
    "export": "export",
    "fold": "surgery",
    "identify": "dialects",
    "list": "families:names",
    "load": "dialects",
    "open_engine": "engines",
    "predict": "predict",
    "push": "hub",
    "report": "report",
    "runs": "catalogue",
    "scale": "scale",
    "serve": "serve",
    "show": "show",
    "study": "studies",
    "train": "train",
}
"""Each public name's module, and its name there where that differs."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'plusx' has no attribute {name!r}")
    home, _, original = _HOMES[name].partition(":")
    value = getattr(import_module(f"plusx.{home}"), original or name)
    globals()[name] = value
    return value


def __dir__() -> Any:
    return sorted([*_HOMES, "__version__"])


class _Package(ModuleType):
    """Keeps `plusx.cost` the function: importing the submodule `plusx.cost` would otherwise put itself in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
