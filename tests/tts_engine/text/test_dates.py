import pytest

from tts_engine.text.telephone import read_for_telephone

NOVEMBER = "November twenty-second"
NOVEMBER_2026 = "November twenty-second, twenty twenty-six"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2026-11-22", NOVEMBER_2026),
        ("11/22/2026", NOVEMBER_2026),
        ("11/22/26", NOVEMBER_2026),
        ("22/11/2026", NOVEMBER_2026),
        ("22.11.2026", NOVEMBER_2026),
        ("Nov 22, 2026", NOVEMBER_2026),
        ("Nov. 22nd, 2026", NOVEMBER_2026),
        ("November 22 2026", NOVEMBER_2026),
        ("22 November 2026", NOVEMBER_2026),
        ("22nd of November", NOVEMBER),
        ("the 22nd of November", "the twenty-second of November"),
        ("November 22-25", "November twenty-second to twenty-fifth"),
        ("on 11/22", f"on {NOVEMBER}"),
        ("Tue 3/4", "Tue March fourth"),
        ("by 12/31.", "by December thirty-first."),
        ("01/02/2026", "January second, twenty twenty-six"),
        ("7/4/1976", "July fourth, nineteen seventy-six"),
        ("5/1/99", "May first, nineteen ninety-nine"),
        ("June 2026", "June twenty twenty-six"),
        ("May 5", "May fifth"),
        ("March 14th", "March fourteenth"),
        ("Jan 1", "January first"),
        ("You may 5 times", "You may five times"),
        ("2026-11-22T14:05", f"{NOVEMBER_2026} at fourteen oh five"),
        ("2026-11-22 09:30:00Z", f"{NOVEMBER_2026} at nine thirty and zero seconds"),
        ("13/13/2026", "thirteen/thirteen/two thousand twenty-six"),
        ("the 1990s", "the nineteen nineties"),
        ("the '80s", "the eighties"),
        ("the 2020s", "the twenty twenties"),
        ("the 2000s", "the two thousands"),
        ("in 1984", "in nineteen eighty-four"),
        ("since 2005", "since two thousand five"),
        ("2020-2025", "twenty twenty to twenty twenty-five"),
    ],
)
def test_dates(written, said):
    assert read_for_telephone(written) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("10:30 am", "ten thirty AM"),
        ("10:30am", "ten thirty AM"),
        ("10:30 a.m.", "ten thirty AM."),  # it ends the text
        ("10 a.m. sharp", "ten AM sharp"),
        ("5PM", "five PM"),
        ("12:00 pm", "twelve PM"),
        ("2:05 p.m. Eastern", "two oh five PM Eastern"),
        ("9:00", "nine o'clock"),
        ("14:05", "fourteen oh five"),
        ("20:00", "twenty hundred"),
        ("00:05", "zero oh five"),
        ("9:30-11:45", "nine thirty to eleven forty-five"),
        ("9am-5pm", "nine AM to five PM"),
        ("9-5pm", "nine to five PM"),
        ("between 9:30 and 11:45 in the morning", "between nine thirty and eleven forty-five in the morning"),
        ("at 8 and 9", "at eight and nine"),
        ("10 amazing offers", "ten amazing offers"),
        ("a 16:9 screen", "a sixteen to nine screen"),
    ],
)
def test_times(written, said):
    assert read_for_telephone(written) == said
