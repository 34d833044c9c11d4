"""Start a Chatterline server, call it with a real SIP phone, and keep what the phone heard.

    python scripts/demo.py OUT.wav

Exits 0 only when the call was clean and speech was heard.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from mediaserver.phone import CallReport, PhoneError, place_call
from mediaserver.phone.local_server import LocalServer, ServerStartError

TEXT = (
    "Hello, this is Chatterline. A SIP phone has just called me over the network, and you are hearing my "
    "answer as ordinary telephone audio. I can read out any text that your phone system sends me."
)
# Less than this of audible sound cannot be that text.
LEAST_SPEECH_S = 5.0
MOST_DISCARDED = 0.03  # a busy machine may make a few too late for the phone's jitter buffer
LONGEST_CALL_S = 60.0


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0].startswith("-"):
        print(__doc__)
        return 2
    out = Path(arguments[0])
    if not out.parent.is_dir():
        print(f"There is no directory {out.parent}.")
        return 2
    with tempfile.TemporaryDirectory(prefix="chatterline-demo-") as scratch:
        server = LocalServer(Path(scratch) / "server.log")
        try:
            faults = demonstrate(server, out)
        except ServerStartError as error:
            print(f"The server did not start: {error}")
            return 1
        except PhoneError as error:
            faults = [str(error)]
        if not faults:
            print(f"\nThe call was clean. Listen to it: {out}")
            return 0
        print("\nThe call was not clean:")
        for fault in faults:
            print(f"  - {fault}")
        print(f"\nLog of the server:\n{server.log or '(empty)'}")
        return 1


def demonstrate(server: LocalServer, out: Path) -> list[str]:
    """Start, call, hang up, stop; what was wrong, nothing when all was well."""
    print("Starting the server ...")
    with server:
        print(f"It answers OPTIONS on 127.0.0.1, UDP port {server.port}. Calling {server.uri} and asking it to say:")
        print(f"\n  {TEXT}\n")
        report = place_call(server.uri, say=TEXT, record=out, max_seconds=LONGEST_CALL_S)
        for line in report.lines():
            print(f"  {line}")
    faults = find_faults(report)
    if server.exit_code != 0:
        faults.append(f"the server ended with exit code {server.exit_code}")
    return faults


def find_faults(report: CallReport) -> list[str]:
    """What keeps the call from being clean."""
    if not report.answered:
        return [f"the server did not answer: {report.status} {report.reason}"]
    counts = report.received
    wrong = {
        f"{counts.lost} packets were lost": counts.lost > 0,
        f"{counts.duplicated} packets came twice": counts.duplicated > 0,
        f"{counts.discarded} packets came too late": counts.discarded > MOST_DISCARDED * counts.packets,
        f"only {report.audible_s:.1f} s of sound were heard": report.audible_s < LEAST_SPEECH_S,
        "the server did not hang up after the text": report.ended_by != "server",
    }
    return [fault for fault, found in wrong.items() if found]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
