from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tts_engine.tensorrt.fake_builder import fake_tensorrt
from tts_engine.chatterbox.checkpoint import S3GEN_FILE, T3_FILES
from tts_engine.tensorrt.faults import BuildError, PlanError
from tts_engine.tensorrt.flavour import TensorRt, TensorRtRtx
from tts_engine.tensorrt.manifest import FORMAT, RECIPE, Manifest, Plan, weights_digest
from tts_engine.tensorrt.ports import Port, Stage
from tts_engine.tensorrt.profiles import PROFILES, Profile

HERE = Path("engines")
RTX = TensorRtRtx(fake_tensorrt("1.7.1.116", rtx=True))


def plan(stage: str = "vocoder", **changes: Any) -> Plan:
    made = Plan(
        stage=stage,
        bytes=10,
        sha256="ab" * 32,
        inputs=(Port("mel", "float32", ("rows", 80, "frames")), Port("phase", "half", ("rows", 9))),
        outputs=(Port("wave", "float32", ("rows", "480*frames")),),
        profiles=PROFILES[stage],
        scratch_bytes=506_884_096,
        weights_bytes=48_241_156,
        seconds=16.9,
        kernels={"attention": 12, "gemm": 40},
    )
    return replace(made, **changes)


def manifest(**changes: Any) -> Manifest:
    made = Manifest(
        target="sm86",
        precision="fp16",
        flavour="tensorrt-rtx",
        version="1.7.1.116",
        weights="digest of the weights",
        model="turbo",
        options={"level": 3},
        tools={"torch": "2.13.0"},
        plans={"vocoder": plan()},
    )
    return replace(made, **changes)


sizes = st.integers(0, 1 << 40)
names = st.text(min_size=1, max_size=12)
DIMS = ["rows", "tokens", "frames"]
axes = st.one_of(sizes, st.sampled_from(["rows", "2*tokens", "480*frames"]))
ports = st.builds(
    Port, names, st.sampled_from(["half", "float32", "int32", "int64", "bool"]), st.lists(axes, max_size=6).map(tuple)
)
ranges = st.tuples(sizes, sizes, sizes)
profiles = st.builds(Profile, names, st.fixed_dictionaries(dict.fromkeys(DIMS, ranges)))
plans = st.builds(
    Plan,
    stage=st.just("estimator"),
    bytes=sizes,
    sha256=names,
    inputs=st.lists(ports, max_size=3).map(tuple),
    outputs=st.lists(ports, max_size=3).map(tuple),
    profiles=st.lists(profiles, min_size=1, max_size=3).map(tuple),
    scratch_bytes=sizes,
    weights_bytes=sizes,
    seconds=st.floats(0, 1e6),
    kernels=st.dictionaries(names, sizes, max_size=3),
)


class TestFile:
    @given(plans, names, st.booleans())
    def test_comes_back(self, given_plan: Plan, model: str, compatible: bool) -> None:
        made = manifest(model=model, hardware_compatible=compatible, plans={"estimator": given_plan})
        assert Manifest.from_json(made.to_json(), HERE) == made

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '"text"', "{}", "[" * 100_000, '{"format": []}'])
    def test_what_is_no_manifest_is_damaged(self, text: str) -> None:
        with pytest.raises(PlanError, match=r"engines (is damaged|has format)"):
            Manifest.from_json(text, HERE)

    def test_a_newer_format_is_told_from_damage(self) -> None:
        text = manifest().to_json().replace(f'"format": {FORMAT}', f'"format": {FORMAT + 1}')
        with pytest.raises(PlanError, match=rf"has format {FORMAT + 1}; this version reads {FORMAT}: update"):
            Manifest.from_json(text, HERE)

    def test_an_older_format(self) -> None:
        text = manifest().to_json().replace(f'"format": {FORMAT}', '"format": 0')
        with pytest.raises(PlanError, match=r"has format 0; .*build them again"):
            Manifest.from_json(text, HERE)

    @given(st.data())
    def test_whatever_is_missing_or_of_another_type_it_is_damaged(self, data: st.DataObject) -> None:
        """Or still a manifest, where that does not matter; nothing else is raised."""
        document = json.loads(manifest().to_json())
        where: Any = document
        while True:
            keys = sorted(where) if isinstance(where, dict) else list(range(len(where)))
            key = data.draw(st.sampled_from(keys))
            if isinstance(where[key], dict | list) and where[key] and data.draw(st.booleans()):
                where = where[key]
                continue
            if data.draw(st.booleans()) and isinstance(where, dict):
                del where[key]
            else:
                where[key] = data.draw(st.sampled_from([None, -1, "x", [], {}, [1], {"a": 1}, True, 0.5]))
            break
        try:
            Manifest.from_json(json.dumps(document), HERE)
        except PlanError as fault:
            assert str(fault).startswith("engines")

    @pytest.mark.parametrize(
        "axis", [-1, True, 0.5, None, "", "tokens", "0*rows", "-2*rows", "2*", "2*2*rows", "rows*2", "2 * rows", []]
    )
    def test_an_axis_is_a_size_or_a_multiple_of_a_known_one(self, axis: object) -> None:
        document = json.loads(manifest().to_json())
        document["plans"]["vocoder"]["inputs"][0]["shape"][1] = axis
        with pytest.raises(PlanError, match="engines is damaged"):
            Manifest.from_json(json.dumps(document), HERE)

    def test_a_shape_is_a_list(self) -> None:
        """A text is a sequence too."""
        text = re.sub(r'"shape": \[[^\]]*\]', '"shape": "ab"', manifest().to_json())
        with pytest.raises(PlanError, match="'ab' is no list"):
            Manifest.from_json(text, HERE)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"seconds": 16.9', f'"seconds": {10**400}'),
            ('"hardware_compatible": false', '"hardware_compatible": 0'),
            ('"target": "sm86"', '"target": "../.."'),
            ('"vocoder"', '"../../vocoder"'),
        ],
    )
    def test_what_else_is_malformed(self, old: str, new: str) -> None:
        text = manifest().to_json()
        assert old in text
        with pytest.raises(PlanError, match="engines is damaged"):
            Manifest.from_json(text.replace(old, new), HERE)

    def test_a_plan_under_another_name(self) -> None:
        text = manifest().to_json().replace('"stage": "vocoder"', '"stage": "estimator"')
        with pytest.raises(PlanError, match="vocoder is called estimator"):
            Manifest.from_json(text, HERE)


class TestFit:
    def fit(self, made: Manifest, **changes: Any) -> None:
        known: dict[str, Any] = {"weights": made.weights, "flavour": RTX, "gpu": (8, 6)}
        made.check_fit(HERE, **{**known, **changes})

    def test_fits(self) -> None:
        self.fit(manifest())
        self.fit(manifest(), gpu=None, flavour=None)
        self.fit(manifest(), precision="fp16")

    def test_another_gpu(self) -> None:
        with pytest.raises(PlanError, match="for sm86; the GPU here is sm90"):
            self.fit(manifest(), gpu=(9, 0))

    def test_hardware_compatible_engines_run_from_ampere_on(self) -> None:
        self.fit(manifest(hardware_compatible=True), gpu=(9, 0))
        with pytest.raises(PlanError, match="the GPU here is sm75"):
            self.fit(manifest(hardware_compatible=True), gpu=(7, 5))

    def test_another_flavour(self) -> None:
        with pytest.raises(PlanError, match="for tensorrt-rtx; tensorrt is what is installed"):
            self.fit(manifest(), flavour=TensorRt(fake_tensorrt()))

    def test_another_version(self) -> None:
        with pytest.raises(PlanError, match=r"built with TensorRT-RTX 1\.6\.0; here is 1\.7\.1\.116: install that one"):
            self.fit(manifest(version="1.6.0"))

    def test_weights_that_changed(self) -> None:
        with pytest.raises(PlanError, match="weights of turbo as they were; those at hand differ, or have changed"):
            self.fit(manifest(), weights="another digest")

    def test_another_precision(self) -> None:
        with pytest.raises(PlanError, match="are fp16; bf16 is wanted"):
            self.fit(manifest(), precision="bf16")

    def test_another_recipe(self) -> None:
        with pytest.raises(PlanError, match="another version of chatterline; build them again"):
            self.fit(manifest(recipe=RECIPE - 1))

    def test_every_fault_has_a_message_of_its_own(self) -> None:
        messages = set()
        for made, change in (
            (manifest(), {"gpu": (9, 0)}),
            (manifest(), {"flavour": TensorRt(fake_tensorrt())}),
            (manifest(version="1.6.0"), {}),
            (manifest(), {"weights": "other"}),
            (manifest(), {"precision": "bf16"}),
            (manifest(recipe=0), {}),
        ):
            with pytest.raises(PlanError) as fault:
                self.fit(made, **change)
            messages.add(str(fault.value))
        assert len(messages) == 6


class TestPlans:
    def test_the_plan_of_a_stage(self) -> None:
        assert manifest().plan("vocoder", HERE) == plan()

    def test_a_stage_without_one(self) -> None:
        with pytest.raises(PlanError, match="no engine for estimator in engines: `chatterline engine build` makes it"):
            manifest().plan("estimator", HERE)

    def test_profiles_that_changed_since(self) -> None:
        old = plan(profiles=(Profile("short", {"rows": (1, 2, 4), "frames": (4, 8, 16)}),))
        with pytest.raises(PlanError, match="vocoder in engines was built for other sizes of batches"):
            manifest(plans={"vocoder": old}).plan("vocoder", HERE)

    def test_one_more(self) -> None:
        more = manifest().with_plan(plan("estimator")).with_plan(plan("vocoder", bytes=11))
        assert {name: made.bytes for name, made in more.plans.items()} == {"vocoder": 11, "estimator": 10}

    def test_what_makes_it_another_build(self) -> None:
        """Plans, tools and the model's name do not: the digest says which weights."""
        same = manifest(plans={}, tools={"torch": "2.6"}, model="/models/turbo", built=7)
        assert manifest().same_build(same)
        changes = ({"weights": "x"}, {"version": "2"}, {"options": {"level": 5}}, {"hardware_compatible": True})
        assert not any(manifest().same_build(manifest(**change)) for change in changes)

    def test_the_folder(self) -> None:
        """One for each build: what makes it another one makes it another folder."""
        assert re.fullmatch(r"sm86-fp16-tensorrt-rtx-[0-9a-f]{8}", manifest().folder)
        same = manifest(plans={}, tools={}, model="/models/turbo", built=7)
        assert same.folder == manifest().folder
        changes = ({"weights": "x"}, {"version": "2"}, {"options": {"level": 5}}, {"hardware_compatible": True})
        made = [manifest(**change).folder for change in (*changes, {"recipe": 0}, {"target": "sm89"}, {})]
        assert len(set(made)) == len(made)

    def test_ports_of_the_stage_at_hand(self) -> None:
        made = plan()
        stage = Stage("vocoder", torch.nn.Identity(), made.inputs, made.outputs, lambda dims, generator: {})
        made.check_ports(stage)
        phase = Port("phase", "float32", ("rows", 9))
        with pytest.raises(PlanError, match=r"vocoder was built with other inputs \(phase\) than this version has"):
            made.check_ports(replace(stage, inputs=(made.inputs[0], phase)))
        with pytest.raises(PlanError, match="its inputs in another order"):
            made.check_ports(replace(stage, inputs=made.inputs[::-1]))
        with pytest.raises(PlanError, match=r"other outputs \(wave\)"):
            made.check_ports(replace(stage, outputs=()))


class TestDigest:
    @pytest.fixture
    def weights(self, tmp_path: Path) -> Path:
        (tmp_path / T3_FILES["turbo"]).write_bytes(bytes(range(256)) * 9000)
        (tmp_path / S3GEN_FILE).write_bytes(b"s3gen" * 1000)
        return tmp_path

    @given(at=st.integers(0, 256 * 9000 - 1), bit=st.integers(0, 7))
    def test_a_single_bit_counts(self, tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
        """Wherever it is, whatever the file's date says."""
        folder = tmp_path_factory.getbasetemp() / "bits"
        folder.mkdir(exist_ok=True)
        data = bytearray(bytes(range(256)) * 9000)
        (folder / T3_FILES["turbo"]).write_bytes(data)
        (folder / S3GEN_FILE).write_bytes(b"same")
        before = weights_digest(folder)
        data[at] ^= 1 << bit
        (folder / T3_FILES["turbo"]).write_bytes(data)
        assert weights_digest(folder) != before

    def test_other_files_do_not_count(self, weights: Path) -> None:
        before = weights_digest(weights)
        (weights / "conds.pt").write_bytes(b"a voice")
        (weights / S3GEN_FILE).touch()
        assert weights_digest(weights) == before

    def test_a_file_under_another_name_counts(self, weights: Path) -> None:
        before = weights_digest(weights)
        (weights / T3_FILES["turbo"]).rename(weights / T3_FILES["nano"])
        assert weights_digest(weights) != before

    def test_no_model_there(self, tmp_path: Path) -> None:
        with pytest.raises(BuildError, match="is it a model's directory"):
            weights_digest(tmp_path)

    def test_half_a_model_there(self, weights: Path) -> None:
        (weights / S3GEN_FILE).unlink()
        with pytest.raises(BuildError, match=rf"{S3GEN_FILE}: No such file"):
            weights_digest(weights)
