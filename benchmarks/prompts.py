"""What a kept prompt costs: the embedded voice said once, then played from memory, from disk, and together.

    .venv/bin/python -m benchmarks.prompts [--json]

`first PCM` and `whole`: median time on the event loop, from synthesize() to the first chunk and to the last. `many`:
that many callers ask for a text at the same moment that is not kept; the time until the last of them has all.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, commit, machine, table, versions, write_json
from mediaserver.config import Config
from mediaserver.engine_identity import EngineIdentity
from mediaserver.engines import make_engine
from mediaserver.prompt_file import PromptLine
from mediaserver.prompt_warming import Warmer
from mediaserver.prompts import prompt_store
from tts_engine.engine import Engine, PcmChunk, SpeechRequest
from tts_engine.prompts import CachedEngine
from tts_engine.prompts.cache import PromptCache

TEXT = "Welcome to the clinic. My name is Ann. How can I help you today?"
TOGETHER = "One moment, please. I am looking that up for you."
MANY = 50
ENTRIES = 1000


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hits", type=int, default=5000, help="(default %(default)s)")
    parser.add_argument("--json", action="store_true", help=f"write a file to {RESULTS}")
    return parser.parse_args()


async def timed(engine: Engine, request: SpeechRequest) -> tuple[float, float, int]:
    """Seconds to the first chunk and to the end, and bytes."""
    start = time.perf_counter()
    first = 0.0
    size = 0
    async for chunk in engine.synthesize(request):
        first = first or time.perf_counter() - start
        size += len(chunk.pcm)
    return first, time.perf_counter() - start, size


async def medians(engine: Engine, request: SpeechRequest, times: int) -> tuple[float, float]:
    rounds = [await timed(engine, request) for _ in range(times)]
    return statistics.median(each[0] for each in rounds), statistics.median(each[1] for each in rounds)


async def together(engine: Engine, request: SpeechRequest) -> float:
    start = time.perf_counter()
    await asyncio.gather(*(timed(engine, request) for _ in range(MANY)))
    return time.perf_counter() - start


async def settled(engine: CachedEngine) -> CachedEngine:
    await engine.start()
    while engine._background:  # what it does after the start
        await asyncio.wait(engine._background)
    return engine


def entry_bytes(pcm_bytes: int) -> float:
    """What an entry takes beside its PCM, measured."""
    cache = PromptCache(1 << 40)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number in range(ENTRIES):
        cache.put(number.to_bytes(32, "big"), PcmChunk(bytes(pcm_bytes), 8000))
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return held / ENTRIES - pcm_bytes


async def measure(hits: int, directory: Path) -> dict[str, Any]:
    config = Config(tts={"engine": "embedded", "prompts": {"dir": str(directory)}})  # type: ignore[arg-type]
    behind = make_engine(config.tts, 2 * MANY, 500)
    identity = EngineIdentity(config.tts, "embedded")
    await behind.start()
    began = time.perf_counter()
    identity.load()
    identity_s = time.perf_counter() - began
    store = prompt_store(config.tts)
    await Warmer(behind, identity, store, lambda line: None, print).warm([PromptLine(1, None, TEXT)], (8000,))
    request = SpeechRequest(TEXT)
    made = await medians(behind, request, 9)
    seconds = (await timed(behind, request))[2] / 16_000
    from_disk = []
    for _ in range(9):
        engine = await settled(CachedEngine(behind, identity, 64 << 20, store))
        from_disk.append((await timed(engine, request))[:2])
    hit = await medians(engine, request, hits)
    shared = await together(engine, SpeechRequest(TOGETHER))
    alone = await together(behind, SpeechRequest(TOGETHER))
    await behind.stop()
    return {
        "speech_seconds": seconds,
        "identity_ms": identity_s * 1e3,
        "synthesised_ms": [value * 1e3 for value in made],
        "disk_ms": [statistics.median(each[part] for each in from_disk) * 1e3 for part in (0, 1)],
        "memory_us": [value * 1e6 for value in hit],
        "many": MANY,
        "many_shared_ms": shared * 1e3,
        "many_alone_ms": alone * 1e3,
        "entry_overhead_bytes": entry_bytes(int(seconds * 16_000)),
    }


def main() -> None:
    given = arguments()
    with tempfile.TemporaryDirectory() as directory:
        found = asyncio.run(measure(given.hits, Path(directory)))
    rows = [
        ("synthesised", *(f"{value:.1f} ms" for value in found["synthesised_ms"])),
        ("from disk, once", *(f"{value:.2f} ms" for value in found["disk_ms"])),
        ("from memory", *(f"{value:.1f} us" for value in found["memory_us"])),
    ]
    print(table(rows, ("", "first PCM", "whole")))
    print(
        f"{found['speech_seconds']:.1f} s of speech; {MANY} together: {found['many_shared_ms']:.0f} ms shared, "
        f"{found['many_alone_ms']:.0f} ms each alone; identity read in {found['identity_ms']:.0f} ms; "
        f"{found['entry_overhead_bytes']:.0f} bytes an entry beside its PCM"
    )
    if given.json:
        about = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "versions": versions()}
        write_json(RESULTS / "prompts.json", {**about, **commit(), "results": found})


if __name__ == "__main__":
    main()
