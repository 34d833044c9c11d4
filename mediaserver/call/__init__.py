"""One call: its media, its speech, its digits, and how it is controlled and seen."""
