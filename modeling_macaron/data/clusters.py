"""Find promoters that are copies or near-copies of one another: equal up to orientation, or with a common k-mer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from scipy import sparse

from modeling_macaron.data.rows import hash_strands
from modeling_macaron.io.streams import progress_bar
from tokenization import reverse_complement
from tokenization.tokenization_kmer import N_ID

DEFAULT_KMER = 20
MAX_KMER = 32  # 2 bits a nucleotide
_SPREAD = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it maps 64 bits one to one
_CHUNK_ROWS = 8192
_KEYS_AT_A_TIME = 24_000_000  # about 0.7 GB
_SLOTS_PER_KEY = 16


def first_rows(hashes: np.ndarray) -> np.ndarray:
    """Row (rows,) in which the hash of each row first occurs."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    return first[inverse]


def strand_keys(ids: np.ndarray, kmer_size: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Compute keys of strands (rows, length); strands that share a key belong to one cluster.

    The keys are those of the k-mers, the same for reverse complements. A strand without a k-mer of A, C, G and T, and
    any strand without `kmer_size`, has one key for the whole strand. Returns uint64 keys (windows, rows), spread evenly
    over the 64 bits, and which of them are valid. Different k-mers have different keys; different whole strands share
    one with a chance of about 2^-64.
    """
    windows = 1 if kmer_size is None else max(ids.shape[1] - kmer_size + 1, 1)
    keys, valid = np.empty((windows, len(ids)), np.uint64), np.zeros((windows, len(ids)), bool)
    if kmer_size is not None:
        _roll(ids, kmer_size, keys, valid)
    whole = np.flatnonzero(~valid.any(axis=0))
    if whole.size:
        strands = ids[whole]
        keys[0, whole] = np.minimum(*(hash_strands(_align(one), 0) for one in (strands, reverse_complement(strands))))
        valid[0, whole] = True
    return keys, valid


def _roll(ids: np.ndarray, kmer_size: int, keys: np.ndarray, valid: np.ndarray) -> None:
    """Fill in the keys of all k-mers, two bits per nucleotide, position by position for all rows at once."""
    columns = np.ascontiguousarray(ids.T)
    known = columns < N_ID
    two, top, all_bits = np.uint64(2), np.uint64(2 * (kmer_size - 1)), np.uint64(4**kmer_size - 1)
    forward, reverse = np.zeros((2, len(ids)), np.uint64)
    run = np.zeros(len(ids), np.uint16)  # known nucleotides in a row
    for position in range(len(columns)):
        code = columns[position].astype(np.uint64)
        code &= np.uint64(3)
        forward <<= two
        forward |= code
        forward &= all_bits
        code ^= np.uint64(3)
        code <<= top
        reverse >>= two
        reverse |= code
        run += 1
        run *= known[position]
        window = position - kmer_size + 1
        if window >= 0:
            np.minimum(forward, reverse, out=keys[window])
            keys[window] *= _SPREAD
            np.greater_equal(run, kmer_size, out=valid[window])


def _align(ids: np.ndarray) -> np.ndarray:
    """Align each strand to the left of its row, without N at its ends."""
    known = ids != N_ID
    first = known.argmax(axis=1)[:, None]
    length = ids.shape[1] - first - known[:, ::-1].argmax(axis=1)[:, None]
    position = np.arange(ids.shape[1])
    moved = np.take_along_axis(ids, np.minimum(position + first, ids.shape[1] - 1), axis=1)
    return np.where(position < length, moved, N_ID).astype(np.uint8)


def find_clusters(chunks: Sequence[np.ndarray], kmer_size: int = DEFAULT_KMER, verbose: bool = False) -> np.ndarray:
    """Find the cluster numbers of strands in chunks (rows, length): int32 (all rows,), in the order of first rows.

    Two strands are in one cluster if they have a key in common (see `strand_keys`), or are linked by others that do.
    Keys are sorted in ranges to bound memory.
    """
    chunks = [chunk[start : start + _CHUNK_ROWS] for chunk in chunks for start in range(0, len(chunk), _CHUNK_ROWS)]
    num_rows = sum(map(len, chunks))
    labels = np.arange(num_rows, dtype=np.int32)
    parts = -(-num_rows * max(chunks[0].shape[1] - kmer_size + 1, 1) // _KEYS_AT_A_TIME)
    width = -(-(2**64) // parts)
    with progress_bar("parts of the search for near-copies", parts, verbose=verbose and parts > 1) as bar:
        for part in range(parts):
            pieces = zip(*_keys_between(chunks, kmer_size, part * width, width), strict=True)
            labels = _join(labels, *_links(*map(np.concatenate, pieces), parts))
            bar.update(1)
    return labels


def _keys_between(
    chunks: Sequence[np.ndarray], kmer_size: int, low: int, width: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield keys within a range, minus its lower bound, and the rows of their strands."""
    first = 0
    for strands in chunks:
        keys, valid = strand_keys(strands, kmer_size)
        keys -= np.uint64(low)
        chosen = np.flatnonzero(valid & (keys <= np.uint64(width - 1)))
        yield keys.reshape(-1)[chosen], (chosen % len(strands) + first).astype(np.int32)
        first += len(strands)


def _links(keys: np.ndarray, owners: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of strands that have a key in common; together they link all strands with that key.

    `argsort` takes three times as long as sorting. So the upper bits of the keys are sorted, with the positions in
    place of the lower bits, and `argsort` is used only for keys with equal upper bits.
    """
    bits = max(len(keys) - 1, 1).bit_length()
    lower = np.uint64((1 << bits) - 1)
    upper = keys << np.uint64(parts.bit_length() - 1)  # the keys of a part leave these bits free
    upper &= ~lower
    upper |= np.arange(len(keys), dtype=np.uint64)
    upper.sort()
    equal = np.flatnonzero((upper[1:] ^ upper[:-1]) <= lower)
    is_found = np.zeros(len(upper), bool)
    is_found[equal] = is_found[equal + 1] = True
    positions = (upper[is_found] & lower).astype(np.int64)
    positions = positions[np.argsort(keys[positions])]
    equal = keys[positions[1:]] == keys[positions[:-1]]
    return owners[positions[1:][equal]], owners[positions[:-1][equal]]


def _join(labels: np.ndarray, some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Join the clusters of linked strands."""
    some, others = labels[some], labels[others]
    pairs = _distinct(np.minimum(some, others).astype(np.int64) << 32 | np.maximum(some, others))
    count = int(labels.max()) + 1
    graph = sparse.coo_matrix((np.ones(len(pairs), bool), (pairs >> 32, pairs & 0xFFFFFFFF)), shape=(count, count))
    return sparse.csgraph.connected_components(graph, directed=False)[1][labels]


def _distinct(values: np.ndarray) -> np.ndarray:
    """Sort values (n,) and remove repeats; `np.unique` hashes them first, which takes many times as long."""
    values.sort()
    return values[np.concatenate([[True], values[1:] != values[:-1]])] if len(values) else values


class KeySet:
    """Keys of strands in chunks (rows, length) of token ids, to find strands with a key in common."""

    def __init__(self, chunks: Iterable[np.ndarray], kmer_size: int | None = DEFAULT_KMER):
        self._kmer_size = kmer_size
        pieces = [keys[valid] for keys, valid in (strand_keys(ids, kmer_size) for ids in chunks)]
        self._keys = _distinct(np.concatenate([np.zeros(0, np.uint64), *pieces]))
        bits = max((len(self._keys) * _SLOTS_PER_KEY).bit_length(), 1)
        self._shift = np.uint64(64 - bits)
        self._is_used = np.zeros(1 << bits, bool)  # by the upper bits of a key, so that few other keys are looked up
        self._is_used[self._keys >> self._shift] = True

    def find(self, ids: np.ndarray) -> np.ndarray:
        """Find the strands (rows, length) that have a key in common with these: (rows,) bool."""
        keys, valid = strand_keys(ids, self._kmer_size)
        places = np.flatnonzero(valid & self._is_used.take((keys >> self._shift).view(np.int64)))
        asked = keys.reshape(-1)[places]
        nearest = np.minimum(np.searchsorted(self._keys, asked), len(self._keys) - 1)
        found = np.zeros(len(ids), bool)
        found[places[self._keys[nearest] == asked] % len(ids)] = True
        return found
