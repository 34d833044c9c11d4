"""What the engine adds to a server that has 300 MB."""

from __future__ import annotations

import subprocess
import sys

import pytest

MAX_RESIDENT_MB = 260

FIFTY_STREAMS = """
import asyncio
from tests.sentences import TELEPHONE_SENTENCES
from tts_engine.embedded import EmbeddedEngine
from tts_engine.engine import SpeechRequest

# Two sentences of 4 s and one of 8 s.
TEXT = " ".join(TELEPHONE_SENTENCES[:2]) + (
    " Your parcel has left the house in Rotterdam, and will be with you on Thursday between nine and eleven,"
    " or on Friday in the afternoon."
)

async def read(engine):
    seconds = 0.0
    async for chunk in engine.synthesize(SpeechRequest(TEXT)):
        seconds += chunk.seconds
    return seconds

async def main():
    engine = EmbeddedEngine(workers=2)
    await engine.start()
    seconds = await asyncio.gather(*(read(engine) for _ in range(50)))
    await engine.stop()
    print(min(seconds))

asyncio.run(main())
[peak] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(int(peak.split()[1]) / 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_workers_and_fifty_streams() -> None:
    done = subprocess.run([sys.executable, "-c", FIFTY_STREAMS], check=True, capture_output=True, text=True)
    shortest, peak_mb = map(float, done.stdout.split())
    print(f"peak resident memory {peak_mb:.0f} MB")
    assert shortest > 12
    assert peak_mb < MAX_RESIDENT_MB
