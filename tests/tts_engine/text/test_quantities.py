import pytest

from tts_engine.text.telephone import read_for_telephone


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("12.5%", "twelve point five percent"),
        ("100 %", "one hundred percent"),
        ("5-10%", "five to ten percent"),
        ("20°C", "twenty degrees Celsius"),
        ("72 °F", "seventy-two degrees Fahrenheit"),
        ("-5°", "minus five degrees"),
        ("5 km", "five kilometers"),
        ("1 kg", "one kilogram"),
        ("500mg", "five hundred milligrams"),
        ("2 x 500 mg", "two x five hundred milligrams"),
        ("3.5 lbs", "three point five pounds"),
        ("10-20 mg", "ten to twenty milligrams"),
        ("65 mph", "sixty-five miles per hour"),
        ("90 km/h", "ninety kilometers per hour"),
        ("6 ft", "six feet"),
        ("5'10\"", "five foot ten"),
        ("16GB", "sixteen gigabytes"),
        ("5 minutes", "five minutes"),
        ("5 male callers", "five male callers"),
        ("3x/day", "three times per day"),
        ("2x daily", "two times daily"),
    ],
)
def test_units(written, said):
    assert read_for_telephone(written) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("1st, 2nd, 3rd, 4th", "first, second, third, fourth"),
        ("the 21st caller", "the twenty-first caller"),
        ("1,000th", "one thousandth"),
        ("1/2", "one half"),
        ("3/4 cup", "three quarters cup"),
        ("2/3", "two thirds"),
        ("1 1/2 tablets", "one and a half tablets"),
        ("2 3/4", "two and three quarters"),
        ("120/80", "one hundred twenty over eighty"),
        ("7/10", "seven out of ten"),
        ("24/7", "twenty-four seven"),
        ("5-10 days", "five to ten days"),
        ("3–5 weeks", "three to five weeks"),
        ("2.0.1", "two point zero point one"),
        ("192.168.1.10", "one nine two dot one six eight dot one dot one zero"),
        ("3.14", "three point one four"),
        (".5", "point five"),
        ("-5", "minus five"),
        ("0", "zero"),
        ("42", "forty-two"),
        ("4,250", "four thousand two hundred fifty"),
        ("1,234,567", "one million two hundred thirty-four thousand five hundred sixty-seven"),
        ("4000000000", "four billion"),
        ("7 3 0 9", "seven three zero nine"),
        ("#5 and No. 6", "number five and number six"),
        ("a 7-day trial", "a seven-day trial"),
        ("401(k)", "four oh one k"),
        ("R&D and salt & pepper", "R and D and salt and pepper"),
        ("2 + 2 = 4", "two plus two equals four"),
    ],
)
def test_numbers(written, said):
    assert read_for_telephone(written) == said
