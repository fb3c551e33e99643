"""Open an indexed FASTA; rebuild a missing or stale index."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pysam

from modeling_macaron.io.atomic import new_file


@contextmanager
def quiet_htslib() -> Iterator[None]:
    """Silence htslib's own messages."""
    verbosity = pysam.set_verbosity(0)
    try:
        yield
    finally:
        pysam.set_verbosity(verbosity)


@quiet_htslib()
def open_fasta(path: str | Path) -> pysam.FastaFile:
    """Open an indexed FASTA, plain or compressed by bgzip.

    A missing, damaged or outdated index is rebuilt, as by `samtools faidx`, and saved if the folder is writable.
    Raises a `ValueError` if the file cannot be read as FASTA.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    problem = f"{path} cannot be read as FASTA (plain, or compressed by bgzip)"
    try:
        if _has_index(path):
            with suppress(OSError, ValueError):  # a damaged index is rebuilt too
                return pysam.FastaFile(str(path))
        with TemporaryDirectory() as folder:
            fai, gzi = Path(folder, ".fai"), Path(folder, ".gzi")
            pysam.faidx(str(path), "--fai-idx", str(fai), "--gzi-idx", str(gzi))
            built = {"filepath_index": fai} | ({"filepath_index_compressed": gzi} if gzi.exists() else {})
            fasta = pysam.FastaFile(str(path), **{name: str(index) for name, index in built.items()})
            for index in built.values():
                with suppress(OSError), new_file(f"{path}{index.name}", shared=True) as partial:
                    shutil.copyfile(index, partial)
            return fasta
    except pysam.SamtoolsError as error:
        raise ValueError(f"{problem}: no index can be made of it") from error
    except (OSError, ValueError) as error:
        raise ValueError(f"{problem}: {error}") from error


def _has_index(path: Path) -> bool:
    """Whether a FASTA has a current index."""
    with path.open("rb") as file:
        suffixes = (".fai", ".gzi") if file.read(2) == b"\x1f\x8b" else (".fai",)
    return all(is_current(Path(f"{path}{suffix}"), path) for suffix in suffixes)


def is_current(index: Path, path: Path) -> bool:
    """Whether an index has content and is not older than the last change of its file.

    The change time counts too, since a copied file can keep its modification time. After copying
    both, `touch` the index.
    """
    if not index.is_file():
        return False
    indexed, changed = index.stat(), path.stat()
    return indexed.st_size > 0 and indexed.st_mtime_ns >= max(changed.st_mtime_ns, changed.st_ctime_ns)
