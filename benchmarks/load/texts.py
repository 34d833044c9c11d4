"""What the calls say: varied sentences with names, numbers and times, the same for the same seed."""

from __future__ import annotations

import random

NAMES = [
    "Maria",
    "Peter",
    "Aisha",
    "Jonas",
    "Priya",
    "Hannah",
    "Carlos",
    "Mei",
    "Oliver",
    "Fatima",
    "Samuel",
    "Ingrid",
    "Tomas",
    "Leila",
    "Victor",
    "Nora",
]
PLACES = [
    "the clinic",
    "the bank",
    "the workshop",
    "the front desk",
    "the travel office",
    "the school",
    "the library",
]
DAYS = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
]
SENTENCES = (
    "Hello {name}, this is {place} calling.",
    "Your appointment is on {day} at {hour}:{minute:02d}.",
    "Please have invoice {number} at hand when you arrive.",
    "The amount due is {amount} dollars and {cents} cents.",
    "{name} from {place} will meet you at gate {gate}.",
    "Your parcel, number {number}, left the depot on {day}.",
    "If {day} does not suit you, call us before {hour} o'clock.",
    "We have {gate} free places left for the course with {name}.",
    "The confirmation code is {number}, and it is valid until {day}.",
    "Thank you for waiting, {name}; it will not take more than {gate} minutes.",
    "The doctor has asked that you drink {gate} glasses of water on {day}.",
    "Our records show {amount} points on your card, {name}.",
)

CHARACTERS_A_SECOND = 15.0
"Of speech: what a text's length stands for where nothing else sets how long it is spoken."
WORDS = tuple(
    """
    we to it on by at in up so as no us our you can now day let all may new far the was soon call team line back
    hour next send note from this plan mail week green table paper reach write visit ready again first clear order
    answer office letter moment member travel number report please garden window package morning station message
    meeting weather evening payment customer question birthday delivery document schedule discount passport
    assistant agreement insurance reception afternoon confident interview department restaurant technician
    conference understand signature information appointment application improvement arrangement conversation
    professional registration subscription satisfactory announcement
    """.split()  # noqa: SIM905
)
"No numbers, names or marks: none is spoken otherwise than it is written, so a text's length is that of its reading."
_BY_LENGTH = {length: [word for word in WORDS if len(word) == length] for length in range(2, 13)}
_LONGEST = 12


def sentence(rng: random.Random, characters: int) -> str:
    """One sentence of exactly that many characters (6 or more), in one line of ASCII."""
    if characters < 6:
        raise ValueError(f"a sentence has at least 6 characters, not {characters}")
    words: list[str] = []
    left = characters  # with a blank or the full stop after each word
    while left > 2 * _LONGEST:
        words.append(rng.choice(WORDS))
        left -= len(words[-1]) + 1
    while left > _LONGEST + 1:
        words.append(rng.choice(_BY_LENGTH[min(_LONGEST, left - 4) // 2]))
        left -= len(words[-1]) + 1
    words.append(rng.choice(_BY_LENGTH[left - 1]))
    return f"{' '.join(words).capitalize()}."


def speech(rng: random.Random, characters: int) -> str:
    """Whole sentences, together at least `characters` long, in one line of ASCII."""
    sentences: list[str] = []
    length = 0
    while length < characters:
        sentence = rng.choice(SENTENCES).format(
            name=rng.choice(NAMES),
            place=rng.choice(PLACES),
            day=rng.choice(DAYS),
            hour=rng.randint(1, 12),
            minute=rng.choice((0, 5, 15, 30, 45)),
            number=rng.randint(1000, 99999),
            amount=rng.randint(10, 990),
            cents=rng.randint(1, 99),
            gate=rng.randint(2, 30),
        )
        sentences.append(sentence)
        length += len(sentence) + 1
    return " ".join(sentences)


def speeches(calls: int, characters: int, seed: int) -> list[str]:
    """One text a call, all different."""
    rng = random.Random(seed)
    texts: dict[str, None] = {}
    while len(texts) < calls:
        texts[speech(rng, characters)] = None
    return list(texts)


def scripts(calls: int, prompts: int, characters: int, seed: int) -> list[list[str]]:
    """Texts of which every call says the same few, each call from another one on."""
    pool = speeches(prompts, characters, seed)
    return [pool[call % prompts :] + pool[: call % prompts] for call in range(calls)]


def scripts_of_their_own(calls: int, texts: int, characters: int, seed: int) -> list[list[str]]:
    """Texts that no two calls share."""
    pool = speeches(calls * texts, characters, seed)
    return [pool[call * texts : (call + 1) * texts] for call in range(calls)]
