r"""Go's `%q`: a string in double quotes, with whatever can't be printed as an escape.

After `strconv.Quote` (Go's strconv/quote.go): bytes that are no UTF-8 become `\x..`, what Unicode
does not call printable `\u....`. Python's and Go's tables of printable characters agree but for
characters that one of them does not know yet.
"""

_ESCAPES = {
    "\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v",
    "\\": "\\\\", '"': '\\"',
}  # fmt: skip
_SURROGATES = range(0xDC80, 0xDD00)
"""Bytes that are no UTF-8, as Python's `surrogateescape` keeps them."""
_BMP = 0x10000


def quote(data: bytes) -> bytes:
    """`data` as Go prints it with `%q`."""
    text = data.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return b'"' + data + b'"'
    return ('"' + "".join(map(_escaped, text)) + '"').encode()


def quoted(text: str) -> str:
    """The same, of a word of the command line."""
    return quote(text.encode("utf-8", "surrogateescape")).decode()


def _escaped(letter: str) -> str:
    found = _ESCAPES.get(letter)
    if found is not None:
        return found
    code = ord(letter)
    if code in _SURROGATES:
        return f"\\x{code - 0xDC00:02x}"
    if letter.isprintable():
        return letter
    if code < ord(" ") or code == 0x7F:  # DEL
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < _BMP else f"\\U{code:08x}"
