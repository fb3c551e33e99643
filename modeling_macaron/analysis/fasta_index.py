"""Open a FASTA by its index, which is built anew where it does not fit the file."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

import pysam

from modeling_macaron.atomic import new_file

_MOST_BETWEEN = 1 << 20  # bytes of a header
_EMPTY_RECORDS = rb"(?:>[^\n]*\n\s*)*"  # which no index has
_BLOCK_HEADER = 18  # bytes that bgzip writes before the data of a block

_Read = Callable[[int, int], bytes]


@contextmanager
def quiet_htslib() -> Iterator[None]:
    """Let htslib print nothing beside the errors that pysam raises."""
    verbosity = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(verbosity)


@quiet_htslib()
def open_fasta(path: str | Path) -> pysam.FastaFile:
    """Open a FASTA file by its index (`.fai`, and `.gzi` where it is compressed by bgzip).

    An index that is missing, older than the file, or of other contents is built anew, as `samtools faidx` does, and
    saved beside the file where that can be written.

    Parameters
    ----------
    path : str or Path
        FASTA, plain or compressed by bgzip.

    Returns
    -------
    pysam.FastaFile

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it cannot be read as FASTA.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    problem = f"{path} cannot be read as FASTA (plain, or compressed by bgzip)"
    try:
        if _has_index(path):
            return pysam.FastaFile(str(path))
        with TemporaryDirectory() as folder:
            fai, gzi = Path(folder, ".fai"), Path(folder, ".gzi")
            pysam.faidx(str(path), "--fai-idx", str(fai), "--gzi-idx", str(gzi))
            built = {"filepath_index": fai} | ({"filepath_index_compressed": gzi} if gzi.exists() else {})
            fasta = pysam.FastaFile(str(path), **{name: str(index) for name, index in built.items()})
            for index in built.values():
                with suppress(OSError), new_file(f"{path}{index.name}") as partial:
                    shutil.copyfile(index, partial)
            return fasta
    except pysam.SamtoolsError as error:
        raise ValueError(f"{problem}: no index can be made of it") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{problem}: {error}") from error


def _has_index(path: Path) -> bool:
    """Whether a FASTA has an index that is not older and of the same contents."""
    indexes = [Path(f"{path}.fai")]
    with path.open("rb", buffering=0) as file:
        is_compressed = file.read(2) == b"\x1f\x8b"
        if is_compressed:
            indexes.append(Path(f"{path}.gzi"))
        changed = path.stat().st_mtime_ns
        if not all(index.is_file() and index.stat().st_mtime_ns >= changed for index in indexes):
            return False
        try:
            starts = list(_block_starts(file)) if is_compressed else []
            if is_compressed and not _fits_blocks(indexes[1].read_bytes(), starts):
                return False
            read = _read_blocks(file, starts) if is_compressed else _read_plain(file)
            return _fits_records(indexes[0].read_text(encoding="utf-8").splitlines(), read)
        except (ValueError, struct.error, zlib.error):  # the index, or the file, is not what its name says
            return False


def _fits_records(lines: list[str], read: _Read) -> bool:
    """Whether each record stands behind a header that names it, has lines of the length given, and none is left out."""
    end, has_letters = 0, False  # of the record before
    for line in lines:
        name, *numbers = line.split("\t")
        length, offset, bases, width = map(int, numbers)
        begin = end - has_letters
        if not 0 < offset - begin <= _MOST_BETWEEN:
            return False
        before = rb"\S\s*\n" if has_letters else rb"\s*"
        header = re.fullmatch(before + _EMPTY_RECORDS + rb">(\S*)[^\n]*\n", read(begin, offset - begin))
        if header is None or header[1].decode() != name:
            return False
        if length > bases and not re.fullmatch(rb"\S\r?\n", read(offset + bases - 1, width - bases + 1)):
            return False
        end, has_letters = offset + length + max(-(-length // max(bases, 1)) - 1, 0) * (width - bases), length > 0
    return has_letters and re.fullmatch(rb"\S\s*", read(end - 1, _MOST_BETWEEN)) is not None


def _fits_blocks(index: bytes, starts: list[tuple[int, int]]) -> bool:
    """Whether a `.gzi` names the blocks that a file has, but for empty ones at its end."""
    (count,) = struct.unpack_from("<Q", index)
    numbers = struct.unpack_from(f"<{2 * count}Q", index, 8)
    named = [(0, 0), *zip(numbers[::2], numbers[1::2], strict=True)]
    return starts[: len(named)] == named and all(start[1] == starts[-1][1] for start in starts[len(named) :])


def _block_starts(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Offset of each block in a file compressed by bgzip and in what it holds, and both ends."""
    size, at, start = file.seek(0, 2), 0, 0
    while at < size:
        yield at, start
        file.seek(at)
        header = file.read(_BLOCK_HEADER)
        if header[:4] != b"\x1f\x8b\x08\x04" or header[12:14] != b"BC":
            raise ValueError("not compressed by bgzip")
        at += struct.unpack_from("<H", header, 16)[0] + 1
        file.seek(at - 4)
        start += struct.unpack("<I", file.read(4))[0]
    yield at, start


def _read_plain(file: BinaryIO) -> _Read:
    def read(start: int, size: int) -> bytes:
        file.seek(start)
        return file.read(size)

    return read


def _read_blocks(file: BinaryIO, starts: list[tuple[int, int]]) -> _Read:
    places = [start for _, start in starts]

    @lru_cache(4)
    def block(number: int) -> bytes:
        file.seek(starts[number][0])
        return zlib.decompress(file.read(starts[number + 1][0] - starts[number][0]), wbits=31)

    def read(start: int, size: int) -> bytes:
        first = bisect_right(places, start) - 1
        last = min(bisect_right(places, start + size - 1), len(places) - 1)
        return b"".join(map(block, range(first, last)))[start - places[first] :][:size]

    return read
