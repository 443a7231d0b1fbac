"""The word at the cursor of a shell's line."""

from dataclasses import dataclass

_IN_DOUBLE = '$`"\\\n'
"""What a backslash is taken off of between double quotes; before all else it stays."""


@dataclass(frozen=True, slots=True)
class LastWord:
    """The last word of a line, and those before it, their quotes taken off."""

    before: list[str]
    text: str
    quote: str
    """The quote that is still open in it, `'` or `"`, or nothing."""
    kept: int
    """How much of it bash keeps as it is: up to that quote, or else up to the last character at
    which it splits words."""


def last_word(line: str, breaks: str) -> LastWord:
    """Take a line apart, as bash does with `breaks` in COMP_WORDBREAKS."""
    before: list[str] = []
    text, quote, opened, split = "", "", 0, 0
    begun = False
    rest = iter(line)
    for char in rest:
        if not quote and char.isspace():
            if begun:
                before.append(text)
            text, split, begun = "", 0, False
            continue
        begun = True
        if char == "\\" and quote != "'":
            escaped = next(rest, "")
            text += char + escaped if quote and escaped not in _IN_DOUBLE else escaped
        elif char == quote:
            quote = ""
        elif not quote and char in "\"'":
            quote, opened = char, len(text)
        else:
            text += char
            if not quote and char in breaks:
                split = len(text)
    return LastWord(before, text, quote, opened if quote else split)
