"""Compiled kernels that read fragment rows from bytes, and a table that numbers names.

All positions are byte offsets into one ``uint8`` array that ends with a line feed, so a scan for a tab or a line feed
needs no second look at the end of the text. Names and numbers are read eight bytes at a time: a row has about 45
bytes, and byte by byte their parsing takes longer than their decompression.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scmap_cli.runtime.compiled import compiled, load1, load8, trailing_zeros

LARGEST = 2**31 - 1
"""Largest coordinate that is read: positions are kept in 32 bits."""

MOST_COPIES = 10**6
"""Largest support that is read: sums of it over the fragments of a cell in a peak are kept in 32 bits."""

NAMED = 4
"""Bad rows of one text that are told apart; the others are only counted."""

# numba makes a float of a signed and an unsigned number, so every operand is given its kind.
_SEED, _PRIME, _OTHER = np.uint64(14695981039346656037), np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_ONE, _EIGHT, _SIXTEEN, _HALF = np.uint64(1), np.uint64(8), np.uint64(16), np.uint64(32)
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_TABS, _LINES = np.uint64(0x0909090909090909), np.uint64(0x0A0A0A0A0A0A0A0A)
_ZEROS, _SEVENS, _ABOVE_9 = np.uint64(0x3030303030303030), np.uint64(0x7F7F7F7F7F7F7F7F), np.uint64(0x7676767676767676)
_PAIRS, _TEN = np.uint64(0x000000FF000000FF), np.uint64(10)
_UPPER, _LOWER = np.uint64(100 + (1000000 << 32)), np.uint64(1 + (10000 << 32))
_TOO_LARGE = np.int64(LARGEST + 1)
_TAB, _LINE, _HASH, _RETURN, _ZERO = 9, 10, 35, 13, 48


@compiled
def _same(a, i, b, j, length):  # type: ignore[no-untyped-def]
    k = 0
    while k + 8 <= length:
        if load8(a, i + k) != load8(b, j + k):
            return False
        k += 8
    while k < length:
        if load1(a, i + k) != load1(b, j + k):
            return False
        k += 1
    return True


@compiled
def _mixed(h, g, word):  # type: ignore[no-untyped-def]
    """Both halves of a running hash with eight more bytes in them."""
    h, g = (h ^ word) * _PRIME, (g ^ word) * _OTHER
    return h ^ (h >> _HALF), g ^ (g >> _HALF)


@compiled
def _scan(text, p, size):  # type: ignore[no-untyped-def]
    """The next tab or line feed from ``p`` on, and a hash of the bytes before it and of their number, in two halves."""
    h, g = _SEED, _OTHER
    begin = p
    while p + 8 <= size:
        word = load8(text, p)
        tabs, lines = word ^ _TABS, word ^ _LINES
        # The lowest flag is right; those above it may be false, and are not looked at.
        flags = ((tabs - _ONES) & ~tabs | (lines - _ONES) & ~lines) & _HIGHS
        if flags:
            bits = trailing_zeros(flags) - 7
            p += bits // 8
            h, g = _mixed(h, g, word & ((_ONE << np.uint64(bits)) - _ONE))
            h, g = _mixed(h, g, np.uint64(p - begin))
            return p, h, g
        h, g = _mixed(h, g, word)
        p += 8
    word, shift = np.uint64(0), np.uint64(0)
    byte = load1(text, p)
    while byte != _TAB and byte != _LINE:
        word |= np.uint64(byte) << shift
        shift += _EIGHT
        p += 1
        byte = load1(text, p)
    h, g = _mixed(h, g, word)
    h, g = _mixed(h, g, np.uint64(p - begin))
    return p, h, g


@compiled
def _whole(text, p, size):  # type: ignore[no-untyped-def]
    """The whole number at ``p`` and where it ends; more than :data:`LARGEST` for any number that is larger."""
    value = np.int64(0)
    if p + 8 > size:
        digit = load1(text, p) - _ZERO
        while 0 <= digit < 10:
            value = min(value * 10 + digit, _TOO_LARGE)
            p += 1
            digit = load1(text, p) - _ZERO
        return value, p
    word = load8(text, p) ^ _ZEROS
    others = ((word & _SEVENS) + _ABOVE_9 | word) & _HIGHS
    bits = trailing_zeros(others) - 7 if others else 64
    if bits == 0:
        return value, p
    # Digits to the top, zeros before them; then pairs, fours and all eight in three multiplications.
    word <<= np.uint64(64 - bits)
    word = word * _TEN + (word >> _EIGHT)
    value = np.int64((((word & _PAIRS) * _UPPER) + (((word >> _SIXTEEN) & _PAIRS) * _LOWER)) >> _HALF)
    p += bits // 8
    if bits == 64:
        digit = load1(text, p) - _ZERO
        while 0 <= digit < 10:
            value = min(value * 10 + digit, _TOO_LARGE)
            p += 1
            digit = load1(text, p) - _ZERO
    return value, p


@compiled
def _find(table, keys, h, g):  # type: ignore[no-untyped-def]
    """The number of a name, or -1, and its slot in the table.

    128 bits tell names apart: among a million of them two alike are less likely than one in 10 to the 26. To compare
    the names themselves would take a look at a far place of the text for each row, more than all the rest of it.
    """
    mask = np.uint64(len(table) - 1)
    slot = h & mask
    found = table[slot]
    while found >= 0 and (keys[found, 0] != h or keys[found, 1] != g):
        slot = (slot + _ONE) & mask
        found = table[slot]
    return found, slot


@compiled
def _larger(table, keys, count):  # type: ignore[no-untyped-def]
    """A hash table of twice the size with the same names."""
    bigger = np.full(2 * len(table), -1, np.int32)
    for i in range(count):
        bigger[_find(bigger, keys, keys[i, 0], keys[i, 1])[1]] = i
    return bigger


@compiled
def longer(array):  # type: ignore[no-untyped-def]
    """The rows of an array of one or two dimensions, with room for as many more."""
    more = np.empty((2 * len(array), *array.shape[1:]), array.dtype)
    more[: len(array)] = array
    return more


@compiled
def _fill(text, p, stop, with_support, rows, chroms, chrom_keys, names, keys, table, state, bad):  # type: ignore[no-untyped-def]
    """Read rows into arrays until the text ends or one of them is full, and return where.

    The arrays stay the same throughout: one that were replaced inside the loop would be looked up anew for each row,
    which doubles the time.
    """
    chrom, start, end, barcode, support = rows
    n, line, n_chroms, n_names, n_bad = state[0], state[1], state[2], state[3], state[4]
    most, most_chroms, most_names = len(chrom), len(chroms), min(len(names), len(table) // 2)
    last, last_at, last_length = -1, 0, 0
    while p < stop and n < most and n_chroms < most_chroms and n_names < most_names:
        begin = p
        head = load1(text, p)
        if head in (_LINE, _HASH):
            while load1(text, p) != _LINE:
                p += 1
            p += 1
            line += 1
            continue
        good = True
        # The chromosome is mostly that of the row before.
        ahead = p + last_length
        if last >= 0 and ahead < stop and load1(text, ahead) == _TAB and _same(text, p, text, last_at, last_length):
            p = ahead
        else:
            p, h, g = _scan(text, p, stop)
            length = p - begin
            good = load1(text, p) == _TAB and length > 0
            if good:
                last = 0
                while last < n_chroms and (chrom_keys[last, 0] != h or chrom_keys[last, 1] != g):
                    last += 1
                if last == n_chroms:
                    chroms[last, 0], chroms[last, 1] = begin, length
                    chrom_keys[last, 0], chrom_keys[last, 1] = h, g
                    n_chroms += 1
                last_at, last_length = begin, length
        low = high = 0
        if good:
            q = p + 1
            low, p = _whole(text, q, stop)
            good = p > q and load1(text, p) == _TAB
        if good:
            q = p + 1
            high, p = _whole(text, q, stop)
            good = p > q and load1(text, p) == _TAB and low < high <= LARGEST
        name_at = length = 0
        h, g = _SEED, _OTHER
        if good:
            name_at = p + 1
            p, h, g = _scan(text, name_at, stop)
            length = p - name_at
            good = length > 0 and load1(text, p - 1) != _RETURN
        count = 1
        if good and load1(text, p) == _TAB:
            q = p + 1
            if with_support:
                count, p = _whole(text, q, stop)
                good = p > q and 0 < count <= MOST_COPIES and load1(text, p) == _LINE
            else:
                p = q
                while load1(text, p) != _TAB and load1(text, p) != _LINE:
                    p += 1
                good = load1(text, p) == _LINE and load1(text, p - 1) != _RETURN
        if not good:
            if n_bad < NAMED:
                bad[n_bad, 0], bad[n_bad, 1] = begin, line
            n_bad += 1
            while load1(text, p) != _LINE:
                p += 1
            p += 1
            line += 1
            continue
        found, slot = _find(table, keys, h, g)
        if found < 0:
            found = np.int32(n_names)
            table[slot] = found
            names[n_names, 0], names[n_names, 1] = name_at, length
            keys[n_names, 0], keys[n_names, 1] = h, g
            n_names += 1
        chrom[n], start[n], end[n], barcode[n] = last, low, high, found
        if with_support:
            support[n] = count
        n += 1
        p += 1
        line += 1
    state[0], state[1], state[2], state[3], state[4] = n, line, n_chroms, n_names, n_bad
    return p


@compiled
def parse_rows(text, first, stop, with_support):  # type: ignore[no-untyped-def]
    """Read rows of chromosome, start, end, barcode and perhaps support from ``text[first:stop]``, whole lines.

    Returns per row the chromosome's number, start, end, barcode's number and support (empty if it is not asked for);
    then the distinct chromosomes (offset, length); the distinct barcodes as a text of their own, their places in it
    (offset, length) and their hashes; the number of lines; and of bad rows the number, and of the first few of them
    offset and line.
    """
    # Rows of a usual length. Longer arrays would be fresh pages at every call.
    room = (stop - first) // 32 + 16
    chrom, start, end = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    barcode, support = np.empty(room, np.int32), np.empty(room if with_support else 1, np.int32)
    chroms, chrom_keys = np.empty((64, 2), np.int64), np.empty((64, 2), np.uint64)
    names, keys = np.empty((8192, 2), np.int64), np.empty((8192, 2), np.uint64)
    table = np.full(1 << 14, -1, np.int32)
    state, bad = np.zeros(5, np.int64), np.empty((NAMED, 2), np.int64)
    p = first
    while p < stop:
        rows = (chrom, start, end, barcode, support)
        p = _fill(text, p, stop, with_support, rows, chroms, chrom_keys, names, keys, table, state, bad)
        if state[0] == len(chrom):
            chrom, start, end, barcode = longer(chrom), longer(start), longer(end), longer(barcode)
            if with_support:
                support = longer(support)
        if state[2] == len(chroms):
            chroms, chrom_keys = longer(chroms), longer(chrom_keys)
        if state[3] == len(names):
            names, keys = longer(names), longer(keys)
            table = _larger(table, keys, state[3])
    n, line, n_chroms, n_names, n_bad = state
    # The text itself can then be let go.
    used = names[:n_names, 1].sum() + n_names
    own = np.empty(used, np.uint8)
    used = 0
    for i in range(n_names):
        at, length = names[i, 0], names[i, 1]
        own[used : used + length] = text[at : at + length]
        own[used + length] = _LINE
        names[i, 0] = used
        used += length + 1
    return (
        (chrom[:n], start[:n], end[:n], barcode[:n], support[: n if with_support else 0]),
        chroms[:n_chroms].copy(),
        (own, names[:n_names].copy(), keys[:n_names].copy()),
        line,
        (n_bad, bad[: min(n_bad, NAMED)].copy()),
    )


@compiled
def _hashed(text, places):  # type: ignore[no-untyped-def]
    """Hashes of the names at ``places`` (offset, length), each of which a line feed follows."""
    keys = np.empty((len(places), 2), np.uint64)
    for i in range(len(places)):
        _, keys[i, 0], keys[i, 1] = _scan(text, places[i, 0], len(text))
    return keys


@compiled
def _number(text, places, keys, table, store, kept, kept_keys, count, used, insert):  # type: ignore[no-untyped-def]
    """Numbers of names in a table that is large enough for all of them; -1 for unknown ones unless ``insert``."""
    ids = np.empty(len(places), np.int32)
    for i in range(len(places)):
        found, slot = _find(table, kept_keys, keys[i, 0], keys[i, 1])
        if found < 0 and insert:
            at, length = places[i, 0], places[i, 1]
            found = np.int32(count)
            table[slot] = found
            store[used : used + length] = text[at : at + length]
            kept[count, 0], kept[count, 1] = used, length
            kept_keys[count] = keys[i]
            used += length
            count += 1
        ids[i] = found
    return ids, count, used


class NameTable:
    """Names with the numbers 0, 1, ... in order of first appearance, held as bytes."""

    def __init__(self) -> None:
        self._table = np.full(1 << 14, -1, np.int32)
        self._store = np.empty(1 << 18, np.uint8)
        self._kept, self._keys = np.empty((1 << 12, 2), np.int64), np.empty((1 << 12, 2), np.uint64)
        self._count = self._used = 0

    def __len__(self) -> int:
        return self._count

    def ids(self, text: np.ndarray, places: np.ndarray, keys: np.ndarray, insert: bool = True) -> np.ndarray:
        """Numbers of the names at ``places`` of ``text``, int32; unknown ones are taken up, or else -1."""
        if insert:
            self._reserve(len(places), int(places[:, 1].sum()))
        kept = (self._table, self._store, self._kept, self._keys, self._count, self._used)
        ids, self._count, self._used = _number(text, places, keys, *kept, insert)
        return np.asarray(ids)

    def add(self, names: Sequence[str]) -> np.ndarray:
        """Numbers of names given as strings, int32; unknown ones are taken up."""
        return self.ids(*as_text(names))

    def names(self) -> list[bytes]:
        """The names by number."""
        store = self._store.tobytes()
        return [store[at : at + length] for at, length in self._kept[: self._count].tolist()]

    def _reserve(self, more: int, more_bytes: int) -> None:
        while 2 * (self._count + more) > len(self._table):
            self._table = _larger(self._table, self._keys, self._count)
        while self._count + more > len(self._kept):
            self._kept, self._keys = longer(self._kept), longer(self._keys)
        if self._used + more_bytes > len(self._store):
            store = np.empty(2 * (self._used + more_bytes), np.uint8)
            store[: self._used] = self._store[: self._used]
            self._store = store


def as_text(names: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Names as one text, their places (offset, length) in it and their hashes."""
    encoded = [name.encode() for name in names]
    places = np.zeros((len(encoded), 2), np.int64)
    places[:, 1] = [len(one) for one in encoded]
    places[1:, 0] = np.cumsum(places[:-1, 1] + 1)
    text = np.array(bytearray(b"\n".join(encoded) + b"\n"))
    return text, places, _hashed(text, places)
