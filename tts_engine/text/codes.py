"""What is read sign by sign: e-mail and web addresses, telephone numbers, codes, PINs, account numbers."""

from __future__ import annotations

import re

from tts_engine.text.numbers import cardinal, digits, grouped_digits
from tts_engine.text.rules import END, START, Rule, rule

_SYMBOLS = {"@": "at", ".": "dot", "-": "dash", "_": "underscore", "/": "slash", "+": "plus", ":": "colon"} | {
    "?": "question mark", "=": "equals", "&": "and", "#": "hash", "%": "percent", "~": "tilde", ",": "comma"
}  # fmt: skip
_ADDRESS_PART = re.compile(r"[0-9]+|[^\W\d_]+|.", re.DOTALL)


def _spell_address(address: str) -> str:
    """Words as they are, digits one by one, symbols by their names."""
    return " ".join(
        digits(part) if part[0] in "0123456789" else _SYMBOLS.get(part, part) for part in _ADDRESS_PART.findall(address)
    )


def _email(match: re.Match[str]) -> str:
    return _spell_address(match[0])


def _url(match: re.Match[str]) -> str:
    address = match[0].rstrip(".,;:!?)'\"")
    sentence_goes_on = match[0][len(address) :]
    host = re.sub(r"^(?:https?://)?(www\.)?", r"\1", address, count=1, flags=re.IGNORECASE)
    if host[:4].lower() == "www.":
        host = f"w w w.{host[4:]}"
    return " ".join(_spell_address(host.rstrip("/")).split()) + sentence_goes_on


def _phone(match: re.Match[str]) -> str:
    number = re.sub(r"^\+1(?=[0-9]{10}$)", "+1 ", match["number"])
    number = re.sub(r"(?<=[0-9])[ .-]?\(0\)", " ", number)  # the trunk prefix is not dialled after "+49"
    groups = [grouped_digits(group) for group in re.findall("[0-9]+", number)]
    if match["number"].startswith("+"):
        groups[0] = f"plus {groups[0]}"
    if match["extension"]:
        groups.append(f"extension {grouped_digits(match['extension'])}")
    return ", ".join(groups)


def _extension(match: re.Match[str]) -> str:
    return f"extension {grouped_digits(match[1])}"


def _after_x(match: re.Match[str]) -> str:
    """A count, "x2", or what a mask leaves of a number, "x4242"."""
    number = match[1]
    return f"times {cardinal(int(number))}" if len(number) < 3 and number[0] != "0" else grouped_digits(number)


def _masked(match: re.Match[str]) -> str:
    return match["cue"] or ("ending in " if len(match["mask"]) > 1 else match["mask"])


def _after_cue(match: re.Match[str]) -> str:
    cue = match["cue"]
    hash_sign = "" if re.search(r"\b(?:number|no|id)\b", cue, re.IGNORECASE) else " number "
    return re.sub(r" ?# ?", hash_sign or " ", cue) + _grouped(match["digits"])


def _grouped(number: str) -> str:
    """In the writer's groups, if there are any."""
    groups = re.split("[ -]", number)
    return grouped_digits(number) if len(groups) == 1 else ", ".join(map(digits, groups))


def _hash(match: re.Match[str]) -> str:
    return f"{match[1].rstrip()} number"


def _as_grouped(match: re.Match[str]) -> str:
    return _grouped(match[0])


def _code(match: re.Match[str]) -> str:
    """Letters and digits one by one, a pause for each hyphen: "A one B two, C three"; "COVID nineteen"."""
    parts = match[0].split("-")
    if all(part.isalpha() for part in parts) or all(part.isdigit() for part in parts):
        return match[0]
    separator = ", " if any(_is_mixed(part) or len(part) > 2 for part in parts if not part.isalpha()) else " "
    return separator.join(map(_code_part, parts)) + ("" if match.string[match.end() : match.end() + 1] != "-" else " ")


def _is_mixed(part: str) -> bool:
    return not part.isdigit() and not part.isalpha()


def _code_part(part: str) -> str:
    if part.isalpha():
        return part if len(part) > 3 else " ".join(part.upper())
    if part.isdigit():
        return grouped_digits(part) if len(part) > 2 or part[0] == "0" else cardinal(int(part))
    if few := re.fullmatch(r"([A-Z]{1,3})([1-9][0-9]?)|([1-9][0-9]?)([A-Z]{1,3})", part):  # B12, MP3, 4K
        before, number, other_number, after = few.groups(default="")
        return " ".join([*before, cardinal(int(number or other_number)), *after])
    return " ".join(digits(character) if character.isdigit() else character.upper() for character in part)


_CUES = (
    r"pin|(?:pass|access|security|verification|authori[sz]ation|activation|discount|promo|zip|postal|sort)?[ -]?code|"
    r"confirmation|reference|tracking|routing|serial|passcode|password|ssn|extension|ext\.?|zip|"
    r"otp|cvv2?|cvc2?|pnr|p\.?\ ?o\.?\ box|"
    r"ending\ in|ending\ with|ends\ in|ends\ with"
)
_LAST_CUES = r"last\ (?:four|4)(?:\ digits)?(?:\ (?:of|on)\ (?:your|the|my|a)\ [a-z]{1,20}+)?|ending"
_SHORT_CUES = r"box|flight(?:\ (?-i:[A-Z]{2})(?=\ ))?|room|suite|apartment|apt\.?|call|dial|text|enter"
_RECORD_CUES = (
    r"account|acct\.?|card|order|ticket|case|claim|policy|member(?:ship)?|customer|invoice|patient|prescription|rx|"
    r"phone|fax|licen[sc]e|employee|agent|id|badge|loan|che(?:ck|que)|meter|parcel|package|part|model|record|booking"
)
_LINK = r"(?:\ (?:number|no\.?|id|\#))?(?:\ (?:is|was|are))?:?\ ?\#?\ ?"
_NUMBER_LINK = r"\ (?:number|no\.?|id|\#)(?:\ (?:is|was))?:?\ ?\#?\ ?"


def _digits_after(cues: str, link: str, at_least: int) -> Rule:
    digits_pattern = rf"(?P<digits>[0-9]{{{at_least},}}+(?:-[0-9]{{1,12}}\b|\ [0-9]{{2,6}}\b)*+)"
    return rule(rf"\b(?P<cue>(?:{cues}){link}){digits_pattern}(?!\ ?[%°]){END}", _after_cue)


_ENDING = r"(?:ending|ends|ended)(?:\ (?:in|with|on))?|last\ (?:four|4)(?:\ digits)?(?:\ (?:is|are))?"
MASK_RULE = rule(
    rf"(?<![\w*•·])(?P<cue>(?:{_ENDING}):?\ )?(?P<mask>"
    r"(?:[*]{3,16}+|[x•·]{2,16}+)(?:[ -](?:[*]{2,16}+|[x•·]{2,16}+)){0,4}[ -]?|[*]{2}-|(?(cue)[*x•]))"
    r"(?=[0-9]{2,6}(?![\w*]))",
    _masked,
)
"""The signs that stand for the digits of a card which are not shown: "•••• 4242", "xxxx-4242", "ending in *4242"."""

ADDRESS_RULES: tuple[Rule, ...] = (
    rule(r"(?<![\w.+@-])[\w.+-]{1,64}+@[a-z0-9-]{1,63}+(?:\.[a-z0-9-]{1,63}+)++", _email),
    rule(
        r"(?<![\w.@/-])(?:https?://[^\s<>\"]++|www\.[^\s<>\"]++|"
        r"(?:[a-z][a-z0-9-]{0,62}+\.){1,4}(?:com|org|net|edu|gov|io|co|info|health|app|ai)(?:\.[a-z]{2})?+"
        r"(?![\w@-]|\.\w)(?:/[^\s<>\"]*+)?+)",
        _url,
    ),
)


def unmask(text: str) -> str:
    pattern, say = MASK_RULE
    return pattern.sub(say, text)


RULES: tuple[Rule, ...] = (
    rule(
        r"(?<![\w.,-])(?P<number>"
        r"(?:\+?1[ .-])?(?:\([0-9]{3}\)\ ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}"
        r"|\+[0-9]{1,15}+(?:[ .-]?\([0-9]{1,5}\)[ .-]?[0-9]{1,14}+|[ .-][0-9]{1,14}+){0,5}"
        r"|(?:0[0-9]{2,4}|\(0[0-9]{1,4}\))\ (?:[0-9]{3,4}[ -][0-9]{3,4}|[0-9]{5,8})"
        r"|[0-9]{3}-[0-9]{4})(?![\w-]|[.,][0-9])"
        r"(?:,?\ ?(?:x|ext\.?|extension)\ ?(?P<extension>[0-9]{1,6})\b)?",
        _phone,
    ),
    rule(r"(?<!\w)ext\.?\ ?([0-9]{1,6})\b", _extension),
    rule(r"(?<=\b(?:call|dial)\ )x([0-9]{1,6})\b", _extension),
    rule(r"(?<!\w)x([0-9]{1,6})\b", _after_x),
    rule(rf"\b((?:{_RECORD_CUES}|confirmation|reference|tracking|serial)\ ?)\#(?=\ (?:is|was|for|on)\b|:)", _hash),
    rule(r"\#\ ?(?=[A-Z]{1,5}-?[0-9])", lambda _: "number ", capitals=True),
    _digits_after(_CUES, _LINK, 2),
    _digits_after(_LAST_CUES, _LINK, 4),
    _digits_after(_SHORT_CUES, _LINK, 3),
    _digits_after(_RECORD_CUES, _NUMBER_LINK, 2),
    _digits_after(_RECORD_CUES, _LINK, 4),
    rule(r"(?<![\w.,-])[0-9](?:-[0-9]){2,}+(?![\w-])", lambda match: digits(match[0].replace("-", ""))),  # 9-1-1
    rule(r"(?<![\w.,-])[0-9]++(?:-[0-9]++){2,}+(?![\w-]|[.,][0-9])", _as_grouped),  # social security, orders
    rule(rf"{START}[0-9]{{5}}-[0-9]{{4}}(?![\w-])", _as_grouped),  # ZIP+4
    rule(rf"{START}[0-9]{{4}}(?:[ -][0-9]{{4}}){{2,3}}(?![\w-])", _as_grouped),  # card
)

MIXED_RULES: tuple[Rule, ...] = (
    rule(
        r"(?<![\w.-])(?=[A-Z0-9-]{0,40}[A-Z])(?=[A-Z-]{0,40}[0-9])[A-Z0-9]++(?:-[A-Z0-9]++)*+(?!\w)",
        _code,
        capitals=True,
    ),
    rule(r"(?<![\w.-])(?=[a-z]{0,20}[0-9]+[a-z]+[0-9])[a-z0-9]{5,}+(?!\w)", _code),
)
