"""The examples do what they say, against the real server; the dialplans are well-formed and name what there is."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mediaserver.phone import Dtmf, place_call
from mediaserver.phone.local_server import HOST, free_udp_port
from mediaserver.phone.recording import read_wav
from tests.interop.control_callee import SCENARIOS, sipp_callee
from tests.interop.control_server import ControlledServer, watching
from tests.interop.server import check_end, free_tcp_port
from tests.recogniser import Recogniser

EXAMPLES = Path(__file__).parents[1] / "examples"
DOCUMENT = (EXAMPLES.parent / "docs" / "calling.md").read_text(encoding="utf-8")
AGENT_PORT, TRUNK_PORT = free_tcp_port(), free_udp_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlledServer]:
    settings = {
        "AGENT__URL": f"ws://{HOST}:{AGENT_PORT}",
        "TRUNKS": json.dumps({"pbx": {"host": HOST, "port": TRUNK_PORT}}),
        "CALLS__DRAIN_S": "1",
    }
    with ControlledServer(tmp_path_factory.mktemp("examples"), settings) as server:
        yield server
        check_end(server)


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="pjsua2-python has no wheel for 3.13")
async def test_the_agent_talks_to_a_caller(server: ControlledServer, recogniser: Recogniser, tmp_path: Path) -> None:
    """The caller interrupts it by a key, hears the joke, and is hung up on when that is asked for."""
    agent = asyncio.create_task(load("llm_agent").main(AGENT_PORT))
    wav = tmp_path / "heard.wav"
    async with server.client() as client, watching(client) as events:
        actions = [Dtmf(at=2.5, digits="2"), Dtmf(at=8.5, digits="*")]
        report = await asyncio.to_thread(place_call, server.uri, actions=actions, record=wav, max_seconds=25)
        ended = await events.until("call.ended")
    agent.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await agent
    assert report.ended_by == "server", report
    types = events.types(ended["call_id"])
    assert types.index("speech.interrupted") < types.index("speech.finished")
    samples, rate = read_wav(wav)
    heard = recogniser.transcribe(samples.tobytes(), rate).lower()
    assert "hello" in heard, heard
    assert "joke" in heard, heard
    assert "thank you for calling" in heard, heard


async def test_reminders_are_dialled(server: ControlledServer, tmp_path: Path) -> None:
    """Two calls at once of three; who is busy is tried again; a second run calls nobody who has answered."""
    appointments, results = tmp_path / "appointments.csv", tmp_path / "results.csv"
    appointments.write_text(
        'number,text,name\npress1,"Hello Anna, tomorrow at ten.",Anna\n'
        "press2,Tomorrow at eleven.,Bob\nnobody,Tomorrow at noon.,Carol\n"
    )
    (tmp_path / "token").write_text(server.token + "\n")
    command = [
        sys.executable, str(EXAMPLES / "reminder_dialler.py"), str(appointments), "--results", str(results),
        "--url", server.url, "--trunk", "pbx", "--token-file", str(tmp_path / "token"), "--limit", "2",
        "--retry-s", "0.1",
    ]  # fmt: skip
    with sipp_callee(SCENARIOS / "uas_presses_a_key.xml", tmp_path / "sipp", port=TRUNK_PORT, calls=5) as sipp:
        async with server.client() as client, watching(client) as events:
            done = await asyncio.to_thread(dialled, command)
            first = rows_of(results)
            again = await asyncio.to_thread(dialled, [*command, "--attempts", "1"])
        # Four calls, and one more of the second run; each went as it should.
        assert await asyncio.to_thread(sipp.wait, 10) == 0, (tmp_path / "sipp" / "errors").read_text()
    assert done.returncode == again.returncode == 1, done.stdout + done.stderr + again.stderr
    assert [(row["name"], row["status"], row["detail"], row["attempts"]) for row in first] == [
        ("Anna", "confirmed", "", "1"),
        ("Bob", "declined", "", "1"),
        ("Carol", "unanswered", "busy", "2"),
    ]
    assert "press1: confirmed" in done.stdout
    assert "press1" not in again.stdout
    assert [row["status"] for row in rows_of(results)] == ["confirmed", "declined", "unanswered"]
    assert [row["call_id"] for row in rows_of(results)][:2] == [row["call_id"] for row in first][:2]
    calls = [one["type"] for one in events.told if one["type"] in ("call.started", "call.ended")]
    at_once = [
        calls[: place + 1].count("call.started") - calls[:place].count("call.ended") for place in range(len(calls))
    ]
    assert max(at_once) <= 3  # an end and the next beginning may cross
    assert calls.count("call.started") == 5
    for call in (row["call_id"] for row in first[:2]):
        assert [one["data"]["played_ms"] > 0 for one in events.of(call, "speech.finished")] == [True], "the goodbye"


def dialled(command: list[str], directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=directory
    )


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--token-file": "/dev/null"}, "no token"),
        ({"--token-file": "wrong"}, "401: the token is unknown"),
        (
            {"--url": "http://127.0.0.1:9"},
            "127.0.0.1:9/v1/events?types=call.%2a%2cdtmf.received%2cspeech.%2a: all connection",
        ),
    ],
    ids=["no token", "wrong token", "no server"],
)
def test_the_dialler_says_what_is_wrong(
    server: ControlledServer, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    (tmp_path / "a.csv").write_text("number,text\n1,Hello.\n")
    (tmp_path / "token").write_text(server.token)
    (tmp_path / "wrong").write_text("ctl_" + "0" * 43)
    options = {
        "--trunk": "pbx", "--url": server.url, "--token-file": str(tmp_path / "token"),
        "--results": str(tmp_path / "r.csv"), **change,
    }  # fmt: skip
    arguments = [part for option in options.items() for part in option]
    done = dialled([sys.executable, str(EXAMPLES / "reminder_dialler.py"), "a.csv", *arguments], tmp_path)
    assert done.returncode == 1
    assert message in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "r.csv").exists(), "nobody was called"


def test_help() -> None:
    done = dialled([sys.executable, str(EXAMPLES / "reminder_dialler.py"), "--help"])
    assert done.returncode == 0
    assert "--limit" in done.stdout


def test_the_freeswitch_dialplan() -> None:
    document = ET.parse(EXAMPLES / "freeswitch" / "dialplan.xml")  # a file of ours
    extensions = document.findall("./context/extension")
    assert len(extensions) >= 3
    for extension in extensions:
        for condition in extension.findall("condition"):
            re.compile(condition.get("expression", ""))
        assert extension.findall("condition/action"), extension.get("name")
    assert_headers_exist((EXAMPLES / "freeswitch" / "dialplan.xml").read_text(encoding="utf-8"))


def test_the_asterisk_dialplan() -> None:
    text = (EXAMPLES / "asterisk" / "extensions.conf").read_text(encoding="utf-8")
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        code = line.partition(";")[0].rstrip() if not line.lstrip().startswith(";") else ""
        if match := re.fullmatch(r"\[([\w-]+)\]", code):
            sections[match[1]] = []
        elif code:
            assert re.fullmatch(r"\s*(exten => [^,]+,(1|n|hint),|same => n(\([\w-]+\))?,)\w+\(.*\)", code), line
            assert code.count("(") == code.count(")"), line
            assert code.count("{") == code.count("}"), line
            sections[list(sections)[-1]].append(code)
    for context in re.findall(r"b\(([\w-]+)\^", text):
        assert context in sections, f"the handler {context}"
    assert_headers_exist(text)


def assert_headers_exist(text: str) -> None:
    """Each X-TTS- header of an example is one of docs/calling.md."""
    headers = set(re.findall(r"X-TTS-[A-Za-z-]+", text))
    assert "X-TTS-Text" in headers
    assert [name for name in headers if name not in DOCUMENT] == []
