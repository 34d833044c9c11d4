"""Text as it is before speech: sentences, tags, and how numbers are said on the telephone. Pure Python."""
