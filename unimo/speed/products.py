"""The products with weights that a call makes, alone: what no leaner code around them can fall below."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

NAME = "products alone"
PRODUCTS = {"aten::linear", "aten::mm", "aten::addmm", "aten::convolution", "mkldnn::_linear_pointwise"}


def products_alone(call: Callable[[], Any]) -> Callable[[], None]:
    """Makes the call, and again on demand its products alone, in their order, with its own inputs and layouts."""
    with _Recorder() as recorder:
        call()

    @torch.inference_mode()
    def again() -> None:
        for product in recorder.products:
            product()

    return again


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        bound = partial(func, *args, **(kwargs or {}))
        if func._schema.name in PRODUCTS:
            self.products.append(bound)
        return bound()
