import pytest

from tts_engine.text.telephone import read_for_telephone


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("555-0123", "five five five, zero one two three"),
        ("(555) 123-4567", "five five five, one two three, four five six seven"),
        ("555-123-4567", "five five five, one two three, four five six seven"),
        ("555.123.4567", "five five five, one two three, four five six seven"),
        ("5551234567", "five five five, one two three, four five six seven"),
        ("1-800-555-0199", "one, eight zero zero, five five five, zero one nine nine"),
        ("+1 (800) 555-0199", "plus one, eight zero zero, five five five, zero one nine nine"),
        ("+15551234567", "plus one, five five five, one two three, four five six seven"),
        ("+44 20 7946 0958", "plus four four, two zero, seven nine four six, zero nine five eight"),
        ("555-0123 x123", "five five five, zero one two three, extension one two three"),
        ("555-0123, ext. 42", "five five five, zero one two three, extension four two"),
        ("call x9", "call extension nine"),
        ("1-800-FLOWERS", "one, eight zero zero, FLOWERS"),
        ("dial 9-1-1", "dial nine one one"),
        ("call 911", "call nine one one"),
        ("text 12345", "text one two three four five"),
        ("dial *67", "dial star six seven"),
        ("press # or *", "press pound or star"),
    ],
)
def test_telephone_numbers(written, said):
    assert read_for_telephone(written) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("A1B2-C3", "A one B two, C three"),
        ("code A1B2-C3.", "code A one B two, C three."),
        ("a1b2c3", "A one B two C three"),
        ("PIN 4821", "PIN four eight two one"),
        ("your code is 0042", "your code is zero zero four two"),
        ("verification code: 481 920", "verification code: four eight one, nine two zero"),
        ("confirmation number 123456", "confirmation number one two three, four five six"),
        ("card ending in 7309", "card ending in seven three zero nine"),
        ("account number 12345678", "account number one two three four, five six seven eight"),
        ("account #42", "account number four two"),
        ("4111 1111 1111 1111", "four one one one, one one one one, one one one one, one one one one"),
        ("SSN 123-45-6789", "SSN one two three, four five, six seven eight nine"),
        ("zip 02139", "zip zero two one three nine"),
        ("order 48213", "order four eight two one three"),
        ("order #48213", "order number four eight two one three"),
        ("order number #48213", "order number four eight two one three"),
        ("order 12 pizzas", "order twelve pizzas"),
        ("flight BA2490", "flight B A two four nine zero"),
        ("Flight 237", "Flight two three seven"),
        ("Room 412", "Room four one two"),
        ("gate 42", "gate forty-two"),
        ("gate B22", "gate B twenty-two"),
        ("vitamin B12", "vitamin B twelve"),
        ("COVID-19", "COVID nineteen"),
        ("an MP3 in 4K over 5G", "an M P three in four K over five G"),
        ("I-95", "I ninety-five"),
        ("123456", "one two three, four five six"),
        ("007", "zero zero seven"),
        ("windows10", "windows ten"),
        ("NASA-JPL", "NASA-JPL"),
    ],
)
def test_codes(written, said):
    assert read_for_telephone(written) == said


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("john.doe42@example.com", "john dot doe four two at example dot com"),
        ("mary_ann+bank@mail.example.co.uk.", "mary underscore ann plus bank at mail dot example dot co dot uk."),
        ("example.com", "example dot com"),
        ("Visit example.com, please", "Visit example dot com, please"),
        ("www.example.com.", "w w w dot example dot com."),
        ("https://example.com/pay/?id=7", "example dot com slash pay slash question mark id equals seven"),
        ("http://www.example.org/", "w w w dot example dot org"),
        ("my-bank.co.uk!", "my dash bank dot co dot uk!"),
        ("end.Then go", "end.Then go"),
        ("@home", "at home"),
    ],
)
def test_addresses(written, said):
    assert read_for_telephone(written) == said
