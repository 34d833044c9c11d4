import time

import pytest

from tts_engine.text.markdown import without_markdown


@pytest.mark.parametrize(
    ("written", "left"),
    [
        ("See [here](https://x.com/a).", "See here."),
        ("![A cat](https://x.com/cat.png) sits", "A cat sits"),
        ("| Item | Price |\n|---|---|\n| Tea | $3 |", "Item, Price\n\nTea, $3"),
        ("__this__ and _that_ ~~not~~ **bold** *it*", "this and that not bold it"),
        ("> quote", "quote"),
        ("- [ ] call\n- [x] write", "call\nwrite"),
        ("above\n---\nbelow", "above\n\nbelow"),
        ("AT&amp;T &#169; &lt;", "AT&T © <"),
        ("mary_ann_lee@example.com", "mary_ann_lee@example.com"),
        ("https://x.com/_a_b?c=_d", "https://x.com/_a_b?c=_d"),
        ("[laugh](no)", "[laugh](no)"),
        ("2 * 3 and a-b", "2 * 3 and a-b"),
    ],
)
def test_what_is_left(written, left):
    assert without_markdown(written) == left


@pytest.mark.parametrize(
    "hostile", ["[", "[a](", "![", "|", "| ", "_", "_a", "~", "> ", "-", "- ", "* ", "&", "&a", "`"]
)
def test_time_is_linear(hostile):
    start = time.process_time()
    without_markdown((hostile * 40_000)[:40_000])
    assert time.process_time() - start < 1
