import pytest

from tts_engine.text.telephone import read_for_telephone


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("$12.50", "twelve dollars and fifty cents"),
        ("$1", "one dollar"),
        ("$0.99", "ninety-nine cents"),
        ("$0.01", "one cent"),
        ("$0", "zero dollars"),
        ("$1.01", "one dollar and one cent"),
        ("$5.5", "five dollars and fifty cents"),
        ("$3.00", "three dollars"),
        ("$3.125", "three point one two five dollars"),
        ("$1,234.56", "one thousand two hundred thirty-four dollars and fifty-six cents"),
        ("$2026", "two thousand twenty-six dollars"),
        ("$1.2 million", "one point two million dollars"),
        ("$3bn", "three billion dollars"),
        ("$250K", "two hundred fifty thousand dollars"),
        ("-$5", "minus five dollars"),
        ("US$20", "twenty dollars"),
        ("20 USD", "twenty dollars"),
        ("EUR 7.20", "seven euros and twenty cents"),
        ("£5", "five pounds"),
        ("£1.01", "one pound and one penny"),
        ("£2.50", "two pounds and fifty pence"),
        ("€3.20", "three euros and twenty cents"),
        ("20€", "twenty euros"),
        ("50¢", "fifty cents"),
        ("$5-$10", "five to ten dollars"),
        ("$5–10", "five to ten dollars"),
        ("$5.50-$10", "five dollars and fifty cents to ten dollars"),
        ("$1-2 million", "one to two million dollars"),
        ("$20/month", "twenty dollars per month"),
        ("$15.50/hr.", "fifteen dollars and fifty cents per hr."),
        ("You pay $5, not $6.", "You pay five dollars, not six dollars."),
    ],
)
def test_amounts(written, said):
    assert read_for_telephone(written) == said
