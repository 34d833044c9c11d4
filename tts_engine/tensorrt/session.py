"""One stage, ready to be run: by TensorRT, by ONNX Runtime or by PyTorch, all called alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from tts_engine.tensorrt.ports import Port, Stage


class Session(Protocol):
    """Belongs to one thread, and on a GPU to one stream: the one that is current when it is called."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors by port name, on the session's device, of the ports' dtypes, to outputs that are the caller's.

        On a GPU it is queued on the current stream and does not wait; a CUDA graph can hold it if `capturable`.
        Raises ValueError if a tensor is missing or its shape fits no profile.
        """

    @property
    def capturable(self) -> bool:
        """Whether a CUDA graph can hold `run`, once it has been called with the same shapes."""


class ModuleSession:
    """The stage's own PyTorch module: what engines are measured against, and what stands in for them in tests."""

    def __init__(self, stage: Stage) -> None:
        self.inputs, self.outputs = stage.inputs, stage.outputs
        self._module = stage.module

    @property
    def capturable(self) -> bool:
        """See Session."""
        return True

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See Session."""
        if missing := [port.name for port in self.inputs if port.name not in inputs]:
            raise ValueError(f"no tensor for {', '.join(missing)}")
        given = self._module(*(inputs[port.name] for port in self.inputs))
        return {port.name: tensor for port, tensor in zip(self.outputs, given, strict=True)}
