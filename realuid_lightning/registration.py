"""Lightning knows the names of our strategies as soon as both packages are imported, in either order.

Neither imports the other for it: that would take seconds, of which ``realuid --help`` needs none.
"""

import sys
from functools import partial
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

REGISTRY = "lightning.pytorch.strategies"
"""The module that holds Lightning's ``StrategyRegistry``."""

STRATEGIES = {
    "ddp_per_network": ("PerNetworkDDP", "DDP for each trained network on its own, the idle ones sending nothing"),
    "fsdp_per_network": ("PerNetworkFSDP", "All networks divided among the processes (FSDP2)"),
}
"""Class and description of each strategy, by its name."""


def register_strategies() -> None:
    """Give Lightning's registry the names of our strategies, at once or when it is imported."""
    registry = sys.modules.get(REGISTRY)
    if registry is None:
        sys.meta_path.insert(0, _RegistryFinder())
    else:
        _register(registry)


def _register(module: ModuleType) -> None:
    for name, (kind, description) in STRATEGIES.items():
        module.StrategyRegistry.register(name, partial(_make, kind), description, override=True)


def _make(kind: str, **options: Any) -> Any:
    """Build a strategy of ours; what it needs is imported now."""
    return getattr(import_module("realuid_lightning.strategies"), kind)(**options)


class _RegistryFinder(MetaPathFinder):
    """Finds the registry's module, once, and adds our names to it when it has been executed."""

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the module's spec, None for other modules."""
        del path, target
        if fullname != REGISTRY:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
