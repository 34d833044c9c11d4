"""CUDA graphs: a T3 step is some 300 small kernels, whose launches cost more than their work."""

from __future__ import annotations

import torch

from tts_engine.chatterbox.decoder import TokenDecoder
from tts_engine.chatterbox.sampling import SamplingSettings
from tts_engine.chatterbox.t3 import T3, VoicePrefix

_WARM_UP_STEPS = 3
"Before capture: libraries allocate their workspaces at first use."


class GraphDecoder(TokenDecoder):
    """A TokenDecoder whose steps replay one captured graph. It keeps its own copy of the prefix, see `use`."""

    def __init__(
        self, t3: T3, prefix: VoicePrefix, capacity: int, settings: SamplingSettings, cfg_scale: float = 0.0
    ) -> None:
        own = VoicePrefix(prefix.keys.clone(), prefix.values.clone())
        super().__init__(t3, own, capacity, settings, cfg_scale)
        self._prefix = own
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            self._capture()

    def use(self, prefix: VoicePrefix) -> bool:
        """Speak with another voice from the next sequence on; False if its prompt has another length."""
        if prefix.length != self._prefix.length:
            return False
        self._prefix.keys.copy_(prefix.keys)
        self._prefix.values.copy_(prefix.values)
        return True

    def _capture(self) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP_STEPS):
                self._step(None)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(self._graph):
            self._step(None)
        self._cache.reset()

    def _advance(self) -> None:
        self._graph.replay()
