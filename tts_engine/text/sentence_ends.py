"""Whether a word ends a sentence, from the word and what follows it. English."""

from __future__ import annotations

import re

CLOSERS = "\"'”’»)]}*_"
OPENERS = "\"'“‘«([{*_"


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


TITLES = _words(
    "mr mrs ms mx messrs dr drs prof rev fr st ste mt ft gen col maj capt cmdr lt sgt cpl pvt adm gov sen rep hon "
    "pres supt det vs v e.g i.e cf viz approx ca al attn re ref"
)
"A name, a number or an explanation follows: no sentence ends here."

BEFORE_NUMBERS = _words(
    "no nos nr p pp par fig figs vol ch sec art ext tel apt rm bldg fl lot ver v pg ln jan feb mar apr jun jul aug sep "
    "sept oct nov dec"
)
"No sentence ends here before a digit."

ABBREVIATIONS = _words(
    "a.m p.m am pm etc inc ltd co corp llc plc bros jr sr esq ph.d m.d b.a m.a d.d.s r.n u.s u.s.a u.k e.u u.n d.c "
    "n.y l.a mon tue tues wed thu thur thurs fri sat sun jan feb mar apr jun jul aug sep sept oct nov dec "
    "min mins max sec secs hr hrs wk wks mo mos yr yrs oz lb lbs ft yd mi kg km cm mm mg ml tsp tbsp gal qt pt mph "
    "ave blvd rd ln hwy pkwy sq pl ct dept div est ext tel fax acct appt govt intl misc assn assoc mfg univ tech "
    "temp avg qty amt bal pd ref reg req addr cont encl orig p.s p.o n.b r.s.v.p"
)
"A sentence ends here only before one of STARTERS."

STARTERS = _words(
    "the this that these those there here it its he she we you they i i'm i'll i've your our my his her their "
    "please thank thanks if when while after before once as so but and or however also then now today tomorrow "
    "is are was were do does did can could would should will shall may have has what where who why how which "
    "to for in on at by with from no not yes let let's just press say call ask bring take use it's that's there's "
    "you're you'll we're we'll we've they're don't a an all any each every some most"
)
"Capitalised, these begin a sentence rather than go on with a name."

AFTER_TIMES = _words(
    "monday tuesday wednesday thursday friday saturday sunday mon tue tues wed thu thur thurs fri sat sun january "
    "february march april may june july august september october november december jan feb mar apr jun jul aug sep "
    "sept oct nov dec eastern central mountain pacific atlantic london new york est edt et cst cdt ct mst mdt mt pst "
    "pdt pt utc gmt bst cet cest local"
)
"Capitalised, these go on with a time of day."

_TIMES = _words("a.m p.m am pm")
_DOTTED = re.compile(r"(?:[^\W\d_]\.)+[^\W\d_]")
_ENUMERATOR = re.compile(r"\(?(?:\d{1,3}|[^\W\d_])")
_ELLIPSIS = ("..", "…")


def needs_whole_next_word(word: str) -> bool:
    """Whether `ends_sentence` looks at more than the next word's first letter or digit."""
    core = word.rstrip(CLOSERS)
    return core.endswith(".") and not core.endswith(_ELLIPSIS) and _is_abbreviation(_stem(core))


def ends_sentence(word: str, following: str, *, first: bool) -> bool:
    """Whether a sentence ends after `word`, given the next word (its first letter or digit is enough, unless
    `needs_whole_next_word`). `first`: the word is the first of its sentence, where a number is an enumerator.
    """
    core = word.rstrip(CLOSERS)
    following = following.lstrip(OPENERS)
    goes_on = following[:1].islower()
    if core.endswith(("!", "?")):
        return not (goes_on and core != word)  # "Really?" she asked
    if core.endswith(_ELLIPSIS):
        return not goes_on
    if not core.endswith("."):
        return False
    stem = _stem(core)
    if stem in TITLES or (first and _ENUMERATOR.fullmatch(stem)):
        return False
    if stem in BEFORE_NUMBERS and following[:1].isdigit():
        return False
    if stem in _TIMES:
        return following[:1].isupper() and following.rstrip(".,;:!?…" + CLOSERS).lower() not in AFTER_TIMES
    if _is_abbreviation(stem):
        return following[:1].isupper() and following.rstrip(".,;:!?…" + CLOSERS).lower() in STARTERS
    return not goes_on


def _stem(core: str) -> str:
    return core[:-1].lstrip(OPENERS).lower().replace("’", "'")


def _is_abbreviation(stem: str) -> bool:
    return stem in ABBREVIATIONS or (len(stem) == 1 and stem.isalpha()) or _DOTTED.fullmatch(stem) is not None
