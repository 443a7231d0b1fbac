"""The headers of Parquet's pages, which no checksum covers: each is what its column's must be.

A page's checksum is over its data alone (parquet-format, `PageHeader.crc`). One flipped bit in a
header may name another encoding, in which the same data says something else, or take the checksum
away. So whatever a header tells is compared with what the footer tells, whose digest is known, and
with how `parquet.write` writes.
"""

from collections.abc import Mapping
from typing import Any, Final

from etcd_steward.registry.wire import Malformed

PLAIN: Final = 0
RLE: Final = 3
ENCODINGS: Final = {
    "DELTA_BINARY_PACKED": 5,
    "DELTA_LENGTH_BYTE_ARRAY": 6,
    "DELTA_BYTE_ARRAY": 7,
    "RLE_DICTIONARY": 8,
}
"""Their numbers (parquet-format, `Encoding`)."""
_DATA: Final = 0
_DICTIONARY: Final = 2
"""Types of pages."""
_TYPE, _UNCOMPRESSED, _COMPRESSED, _CRC, _DATA_HEADER, _DICTIONARY_HEADER = 1, 2, 3, 4, 5, 7
_SAID: Final = frozenset({_TYPE, _UNCOMPRESSED, _COMPRESSED, _CRC})
_VALUES, _ENCODING, _DEFINITIONS, _REPETITIONS = 1, 2, 3, 4
_TRUE, _FALSE, _I32, _I64, _BINARY, _STRUCT = 1, 2, 5, 6, 8, 12
"""Types of Thrift's compact protocol, as far as page headers have them."""
_DEEPEST: Final = 3
_WIDEST: Final = 63
"""Bits of a number."""

Struct = dict[int, Any]


def check_pages(chunk: memoryview, *, rows: int, encoding: str, uncompressed: int) -> None:
    """Compare the page headers of a column chunk with what its footer says.

    `encoding` is that of its values, `uncompressed` its size in bytes with all headers, before
    compression. Raises `Malformed`.
    """
    at = values = size = 0
    dictionary = encoding == "RLE_DICTIONARY"
    while at < len(chunk):
        begin = at
        header, at = read_struct(chunk, at)
        if dictionary:
            _check(header, _DICTIONARY, _DICTIONARY_HEADER)
            _expect(header[_DICTIONARY_HEADER], {_ENCODING: PLAIN})
            dictionary = False
        else:
            _check(header, _DATA, _DATA_HEADER)
            wanted = {_ENCODING: ENCODINGS[encoding], _DEFINITIONS: RLE, _REPETITIONS: RLE}
            _expect(header[_DATA_HEADER], wanted)
            values += header[_DATA_HEADER][_VALUES]
        size += at - begin + header[_UNCOMPRESSED]
        at += header[_COMPRESSED]
    if (at, values, size) != (len(chunk), rows, uncompressed):
        raise Malformed("the pages of a column are not as many or as long as they must be")


def _check(header: Struct, kind: int, own: int) -> None:
    numbers = all(type(header.get(number)) is int for number in _SAID)
    if not numbers or header.keys() != _SAID | {own} or not isinstance(header[own], dict):
        raise Malformed("a page's header is not one of such a page")
    if header[_TYPE] != kind or header[_COMPRESSED] < 0:
        raise Malformed("a page is not of the kind that comes here")


def _expect(header: Struct, wanted: Mapping[int, int]) -> None:
    if any(header.get(number) != value for number, value in wanted.items()):
        raise Malformed("a page is encoded otherwise than its column")
    if type(header.get(_VALUES)) is not int:
        raise Malformed("a page does not tell how many values it has")


def read_struct(data: memoryview, at: int, depth: int = 1) -> tuple[Struct, int]:
    """A struct of Thrift's, by the numbers of its fields, and where it ends. Raises `Malformed`."""
    found: Struct = {}
    number = 0
    try:
        while (head := data[at]) != 0:
            at += 1
            number += head >> 4
            if not head >> 4 or number in found:
                raise Malformed("a page's header can't be read")
            kind = head & 0xF
            if kind in {_TRUE, _FALSE}:
                found[number] = kind == _TRUE
            elif kind in {_I32, _I64}:
                value, at = _varint(data, at)
                found[number] = value >> 1 ^ -(value & 1)
            elif kind == _BINARY:
                value, at = _varint(data, at)
                found[number], at = bytes(data[at : at + value]), at + value
            elif kind == _STRUCT and depth < _DEEPEST:
                found[number], at = read_struct(data, at, depth + 1)
            else:
                raise Malformed("a page's header can't be read")
    except IndexError as error:
        raise Malformed("a page's header has no end") from error
    return found, at + 1


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while (octet := data[at]) & 0x80:
        value |= (octet & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if shift > _WIDEST:
            raise Malformed("a number in a page's header has no end")
    return value | octet << shift, at + 1
