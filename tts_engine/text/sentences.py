"""Cuts a text that arrives in fragments, token by token from a language model, into segments to be spoken.

The text is taken word by word, and whether a segment ends between two words depends on these words and what came
before them, never on how the text was fragmented. A segment is given as soon as its end is certain: when the first
letter of the next word is there (after an abbreviation the whole next word, after a tag what follows the tag).

A segment ends
- after a sentence or a line. Where that leaves fewer than `min_chars`, the next sentence joins it: the model is
  unsteady on a text as short as "Yes.". That costs the time until the next end only where such a text comes before
  others; the last one stands alone, because to hold back what is before it would delay every reply.
- once, in the first segment, after the first clause of at least `first_clause_chars`, so that sound begins early.
- where `max_chars` are reached: after a clause, or a word; a longer word is cut anywhere but inside a tag.

Tags after a sentence's end act on what follows them and go there; at the end of a line or of the text they stay.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tts_engine.text.sentence_ends import CLOSERS, OPENERS, ends_sentence, needs_whole_next_word
from tts_engine.text.tags import LONGEST_TAG, TAG

MAX_CHARS = 300
FIRST_CLAUSE_CHARS = 40
MIN_CHARS = 16

_LATE = 2.5
"Times first_clause_chars: with no end by then, the first segment is cut after an earlier clause, if there is one."

_SPLIT_TAG_HEAD, _SPLIT_TAG_TAIL = "[clear", " throat]"
_WORD = re.compile(r"(?:(?i:\[clear\ throat\])|[^\s—])+—*|—+")
"No white space within, but in a tag; dashes end a word, as they often stand between words without a space."
_SPACE = re.compile(r"\s+")
_TAG_WORD = re.compile(rf"(?:{TAG.pattern})+[.,!?]?", re.IGNORECASE | re.ASCII)
_ATOM = re.compile(rf"{TAG.pattern}|.", re.IGNORECASE | re.ASCII | re.DOTALL)
_CLAUSE_END = re.compile(rf"[,;:—–][{re.escape(CLOSERS)}]*$|^--?$")
_NOT_OF_NUMBERS = ".,;:—–-" + CLOSERS
_ENDS_NUMBER = re.compile(r"[0-9](?:st|nd|rd|th)?\Z", re.IGNORECASE)
_ENTITY = re.compile(r"&#?\w{1,8};\Z")
_DAY_OR_MONTH = re.compile(
    r"(?:mon|tues|wednes|thurs|fri|satur|sun)day|january|february|march|april|may|june|july|august|(?:sept|nov|dec)ember"
    r"|october",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class _Word:
    gap: str
    "What separates it from the word before: nothing, a space, one line break or two."
    text: str

    def __len__(self) -> int:
        return len(self.gap) + len(self.text)

    @property
    def letter(self) -> str:
        """The first character that is no quote or bracket; '' if there is none."""
        return self.text.lstrip(OPENERS)[:1]


class SentenceSplitter:
    """Memory is bounded by `max_chars`; time is linear in the text. Nothing is lost but white space: within a segment
    it is one space, or a line break where a line ended that was too short for a segment of its own.
    """

    def __init__(
        self,
        max_chars: int = MAX_CHARS,
        first_clause_chars: int = FIRST_CLAUSE_CHARS,
        min_chars: int = MIN_CHARS,
    ) -> None:
        if max_chars < 2 * LONGEST_TAG:
            raise ValueError(f"max_chars is {max_chars}, but must be at least {2 * LONGEST_TAG}")
        self._max_chars = max_chars
        self._first_clause_chars = first_clause_chars
        self._min_chars = min_chars
        self._segments: list[str] = []
        self._reset()

    def _reset(self) -> None:
        self._tail = ""  # begin of a word
        self._gap = ""  # before it
        self._words: list[_Word] = []  # of the segment
        self._chars = 0  # of _words
        self._sentence_at = 0  # where in _words the last sentence begins
        self._tags: list[_Word] = []  # tags after its end, until it is known where they belong
        self._holds_tags = False  # the next word belongs to _tags
        self._decided = True  # whether the segment ends before _tail
        self._first = True

    def feed(self, fragment: str) -> list[str]:
        """The segments whose end this fragment makes certain."""
        self._take_words(self._tail + fragment, final=False)
        if self._tail and self._is_enough(self._tail):
            self._decide(self._tail)
        return self._given()

    def finish(self) -> list[str]:
        """What is left; the splitter is as new then."""
        self._take_words(self._tail, final=True)
        self._release_tags()
        self._emit(len(self._words))
        self._reset()
        return self._given()

    def _given(self) -> list[str]:
        segments, self._segments = self._segments, []
        return segments

    # Words

    def _take_words(self, text: str, *, final: bool) -> None:
        at = 0
        while at < len(text):
            if space := _SPACE.match(text, at):
                breaks = min(2, self._gap.count("\n") + space[0].count("\n"))
                self._gap = "\n" * breaks or " "
                at = space.end()
                continue
            end = self._end_of_word(text, at, final=final)
            if end is None:
                break
            self._decide(text[at:end])
            self._add(text[at:end])
            at = end
        self._tail = text[at:]

    def _end_of_word(self, text: str, at: int, *, final: bool) -> int | None:
        """None where what is still to come may belong to the word."""
        limit = at + self._max_chars + LONGEST_TAG
        match = _WORD.match(text, at, limit)
        if match is None:  # text[at] is no white space
            raise AssertionError(text[at])
        end = match.end()
        if not final and len(text) < limit:
            rest = text[end : end + len(_SPLIT_TAG_TAIL)]
            may_be_split_tag = match[0].lower().endswith(_SPLIT_TAG_HEAD) and _SPLIT_TAG_TAIL.startswith(rest.lower())
            if not rest or may_be_split_tag:
                return None
        return at + self._cut_of(match[0]) if end > at + self._max_chars else end

    def _cut_of(self, word: str) -> int:
        """Where to cut a word that is too long: not in a tag."""
        atoms = (atom.end() for atom in _ATOM.finditer(word))
        return max(end for end in atoms if end <= self._max_chars)

    def _is_enough(self, tail: str) -> bool:
        """Whether the beginning of the next word decides as the whole word would."""
        letter_at = len(tail) - len(tail.lstrip(OPENERS))
        if letter_at == len(tail) or "[" in tail[:letter_at]:  # a tag?
            return False
        return not self._words or bool(self._tags) or not needs_whole_next_word(self._words[-1].text)

    # Segments

    def _decide(self, following: str) -> None:
        """End the segment here if it ends before the word that begins with `following`."""
        if self._decided:
            return
        self._decided = True
        word = _Word(self._gap, following)
        if self._tags:
            self._decide_tags(word)
        elif self._sentence_ends(word):
            if _TAG_WORD.fullmatch(following) and "\n" not in self._gap:
                self._holds_tags = True
            else:
                self._end_sentence()
        else:
            self._gap = self._gap and " "
            if self._first and self._chars >= self._first_clause_chars and _clause_ends(self._words[-1], word):
                self._emit(len(self._words))

    def _decide_tags(self, following: _Word) -> None:
        if "\n" in following.gap:  # the tags end the line
            self._release_tags()
            self._end_sentence()
        elif not _TAG_WORD.fullmatch(following.text):
            self._end_sentence()
            self._release_tags()

    def _release_tags(self) -> None:
        self._holds_tags = False
        tags, self._tags = self._tags, []
        for tag in tags:
            self._append(tag)

    def _sentence_ends(self, following: _Word) -> bool:
        if not following.gap:
            return False
        if following.gap == "\n\n" or (following.gap == "\n" and not following.letter.islower()):
            return True
        first = self._sentence_at == len(self._words) - 1
        text = "" if _TAG_WORD.fullmatch(following.text) else following.text
        return ends_sentence(self._words[-1].text, text, first=first)

    def _end_sentence(self) -> None:
        if self._chars >= self._min_chars:
            self._emit(len(self._words))
        self._sentence_at = len(self._words)

    def _add(self, text: str) -> None:
        word = _Word(self._gap[:1], text)
        self._gap = ""
        self._decided = False
        if self._holds_tags:
            self._tags.append(word)
            if sum(map(len, self._tags)) > self._max_chars // 2:
                self._end_sentence()
                self._release_tags()
        else:
            self._append(word)

    def _append(self, word: _Word) -> None:
        late = _LATE * self._first_clause_chars
        if self._first and self._chars <= late < self._chars + len(word):
            self._emit(self._last_clause(word, self._min_chars) or 0)
        while self._words and self._chars + len(word) > self._max_chars:
            self._emit(self._best_cut(word))
        if not self._words:
            word = _Word("", word.text)
        self._words.append(word)
        self._chars += len(word)

    def _best_cut(self, following: _Word) -> int:
        """How many words to emit where no more fit: up to a clause's end, else not between parts of a number."""
        earliest = self._max_chars // 3  # no crumbs
        if cut := self._last_clause(following, earliest):
            return cut
        words = [*self._words, following]
        for cut in range(len(self._words), 0, -1):
            if not _is_number_between(words[cut - 1], words[cut]):
                return cut
        return len(self._words)

    def _last_clause(self, following: _Word, min_chars: int) -> int | None:
        """How many words the last clause's end leaves before it."""
        words = [*self._words, following]
        chars = self._chars
        for cut in range(len(self._words), 0, -1):
            if chars < min_chars:
                break
            if _clause_ends(words[cut - 1], words[cut]):
                return cut
            chars -= len(words[cut - 1])
        return None

    def _emit(self, count: int) -> None:
        """The first `count` words are a segment."""
        segment = "".join(word.gap + word.text for word in self._words[:count])
        if segment:
            self._segments.append(segment)
            self._first = False
        rest = self._words[count:]
        self._words = [_Word("", rest[0].text), *rest[1:]] if rest else []
        self._chars = sum(map(len, self._words))
        self._sentence_at = max(0, self._sentence_at - count)


def _clause_ends(word: _Word, following: _Word) -> bool:
    return (
        _CLAUSE_END.search(word.text) is not None
        and _ENTITY.search(word.text) is None
        and not _is_number_between(word, following)
        and not _is_date_between(word, following)
    )


def _is_date_between(word: _Word, following: _Word) -> bool:
    """Whether a date may go on: "Mon., | Dec 5", "Monday, | November 23rd", "November, | 2026"."""
    core = word.text.rstrip(CLOSERS)
    if core.endswith(".,"):  # an abbreviation
        return True
    goes_on = following.letter.isupper() or following.letter.isdigit()
    return goes_on and _DAY_OR_MONTH.fullmatch(core.rstrip(",").lstrip(OPENERS)) is not None


def _is_number_between(word: _Word, following: _Word) -> bool:
    """Whether a number may go on: "Nov 22, | 2026", "(555) | 123 4567"."""
    return _ENDS_NUMBER.search(word.text.rstrip(_NOT_OF_NUMBERS)[-3:]) is not None and following.letter.isdigit()


def split(
    text: str,
    max_chars: int = MAX_CHARS,
    first_clause_chars: int = FIRST_CLAUSE_CHARS,
    min_chars: int = MIN_CHARS,
) -> list[str]:
    """The segments of a text that is all there."""
    splitter = SentenceSplitter(max_chars, first_clause_chars, min_chars)
    return splitter.feed(text) + splitter.finish()
