"""Directories of engines as `chatterline engine build` leaves them, of plans that the fake TensorRT can load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.tts_engine.tensorrt.fake_trt import FakeTrt, Made
from tts_engine.tensorrt import engines
from tts_engine.tensorrt.engines import HALVES
from tts_engine.tensorrt.faults import NotInstalledError
from tts_engine.tensorrt.flavour import Flavour, TensorRt, TensorRtRtx
from tts_engine.tensorrt.manifest import Manifest, Plan
from tts_engine.tensorrt.plan_store import PlanStore
from tts_engine.tensorrt.ports import Stage
from tts_engine.tensorrt.profiles import PROFILES

RTX_VERSION, VERSION = "1.7.1.116", "10.16.1.11"


class Installed:
    """Flavours of the fake, found by engines.find_engines."""

    def __init__(self, patch: pytest.MonkeyPatch, *names: str) -> None:
        self.flavours: dict[str, Flavour] = {
            "tensorrt-rtx": TensorRtRtx(FakeTrt(RTX_VERSION)),
            "tensorrt": TensorRt(FakeTrt(VERSION)),
        }
        self.names = names or tuple(self.flavours)
        patch.setattr(engines, "find_flavour", self._find)

    def _find(self, wanted: str | None, gpu: object = None) -> Flavour:
        if wanted is None:
            wanted = next(iter(self.names), None)
        if wanted not in self.names:
            raise NotInstalledError(f"{wanted} is not installed")
        return self.flavours[wanted]

    def build(
        self,
        directory: Path,
        stages: Iterable[Stage],
        *,
        flavour: str = "tensorrt-rtx",
        made: Mapping[str, Mapping[str, Any]] | None = None,
        **changes: Any,
    ) -> tuple[Manifest, dict[str, Made]]:
        """`made`: by stage, what its engine is to be like; `changes`: of the manifest."""
        module = self.flavours[flavour].module
        given: dict[str, Any] = {
            "target": "sm86",
            "precision": "fp16",
            "flavour": flavour,
            "version": module.__version__,
            "weights": "digest",
            "model": "small",
        }
        manifest = Manifest(**(given | changes))
        store, plans = PlanStore(directory), {}
        for stage in stages:
            options = (made or {}).get(stage.name, {})
            plans[stage.name] = Made(stage, PROFILES[stage.name], HALVES[manifest.precision], **options)
            data = module.plan(plans[stage.name])
            digest = store.write_plan(manifest.folder, stage.name, data)
            plan = Plan(stage.name, len(data), digest, stage.inputs, stage.outputs, PROFILES[stage.name], 1000, 0, 1.0)
            manifest = manifest.with_plan(plan)
        store.write_manifest(manifest)
        return manifest, plans
