"""Tokenizer of promoter DNA: token ids of both strands, which the model reads as overlapping k-mers."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from transformers.tokenization_python import PreTrainedTokenizer
from transformers.tokenization_utils_base import BatchEncoding, TruncationStrategy

LETTERS = ("A", "C", "G", "T", "N", "[MASK]")
N_ID, MASK_ID = 4, 5
MOST_LETTERS = 10_000  # bases of a strand, as in the config
COMPLEMENT = np.array([3, 2, 1, 0, N_ID, MASK_ID], dtype=np.uint8)

# Constant ends of the construct of the Random Promoter DREAM Challenge 2022.
FLANK5 = "TGCATTTTTTTCACATC"
FLANK3 = "GGTTACGGCTGTT"

PROBLEMS = (
    "",
    "empty sequence",
    "shorter than the flanks",
    "letter that is not DNA",
    "longer than strand_length",
    "missing sequence",
    "no A, C, G or T",
)
EMPTY, TOO_SHORT, BAD_LETTER, TOO_LONG, MISSING, NO_BASE = range(1, len(PROBLEMS))

# NA, NAN, ND, NTC, TBD and WT could be read as DNA.
MISSING_WORDS = frozenset(
    {"NA", "N/A", "N.A.", "#N/A", "<NA>", "NAN", "NONE", "NULL", "ND", "N/D", "N.D.", "NTC", "TBD", "WT"}
    | {"-", "--", ".", "?"}
)
_LONGEST_WORD = max(map(len, MISSING_WORDS))

_INVALID = 255
_MASK_BYTE = b"\x80"  # neither ASCII nor the first byte of a UTF-8 character

_SPACES = re.compile(r"[\s\u200b\ufeff]+")
_ENDS = re.compile(r"^5['′’]?-+|^5['′’]|-+3['′’]?$|3['′’]$")  # noqa: RUF001


_LETTER_IDS = np.full(256, _INVALID, dtype=np.uint8)  # by byte value
for _letters, _id in (("Aa", 0), ("Cc", 1), ("Gg", 2), ("TtUu", 3), ("NRYSWKMBDHVnryswkmbdhv", N_ID)):
    _LETTER_IDS[list(_letters.encode())] = _id
_LETTER_IDS[_MASK_BYTE[0]] = MASK_ID


class StrandBatch(NamedTuple):
    """Padded forward strands of a batch. A row with a problem holds only N."""

    ids: np.ndarray  # (batch, strand_length) uint8 token ids
    lengths: np.ndarray  # (batch,) int64 nucleotides of the variable part, after trimming and before any truncation
    problem: np.ndarray  # (batch,) uint8 index into `PROBLEMS`, 0 without a problem
    trimmed: np.ndarray  # (batch,) bool, whether flanks were cut


def is_missing(text: str) -> bool:
    """Whether a text is a word for a missing value such as `NA`, in any case; False for an empty text."""
    return text.strip().upper() in MISSING_WORDS


def strip_marks(text: str) -> str:
    """Remove white space, GenBank line numbers, and `5'-` and `-3'` at the ends of a sequence.

    Examples
    --------
    >>> strip_marks("1 acgtac gtacgt 13 acg"), strip_marks("5'-ACGT-3'")
    ('acgtacgtacgtacg', 'ACGT')
    """
    words = _SPACES.split(text)
    return _ENDS.sub("", "".join(word for word in words if len(words) == 1 or not word.isdecimal()))


def _rows_of(places: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Rows that contain these byte positions."""
    return np.unique(np.searchsorted(offsets, places, side="right") - 1)


def _strip_rows(letters: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Apply `strip_marks` to some rows of a batch."""
    pieces, lengths, end = [], np.diff(offsets), 0
    for row in rows.tolist():
        start, stop = offsets[row], offsets[row + 1]
        text = letters[start:stop].tobytes().decode("utf-8", "surrogateescape")
        stripped = np.frombuffer(strip_marks(text).encode("utf-8", "surrogateescape"), np.uint8)
        pieces += [letters[end:start], stripped]
        lengths[row], end = len(stripped), stop
    return np.concatenate([*pieces, letters[end:]]), np.concatenate([[0], np.cumsum(lengths)])


def reverse_complement(ids: np.ndarray) -> np.ndarray:
    """Reverse complement of token ids (..., length); N and the mask are their own complements."""
    return COMPLEMENT[ids[..., ::-1]]


class KmerTokenizer(PreTrainedTokenizer):
    """Tokenize promoter DNA into the token ids of both strands.

    The tokenizer cuts the constant flanks, pads with N on both sides to `strand_length` (an extra N goes to the right)
    and appends the reverse complement, which gives `2 * strand_length` ids. The model reads each position as the k-mer
    around it, see `kmers`. Lower case is accepted; U is read as T and IUPAC ambiguity codes as N. `[MASK]` is the
    masked nucleotide, whereas M is the code for A or C. White space, line numbers and `5'-` are removed, see
    `strip_marks`.

    Parameters
    ----------
    kmer_size : int
        Length of the k-mer at each position, in nucleotides.
    strand_length : int
        Length of a padded strand, in nucleotides.
    flank5, flank3 : str
        Constant ends of the construct. Default: those of the Random Promoter DREAM Challenge 2022 (17 and 13 nt).
    trimming : str
        `"auto"` cuts the flanks if both are present, `"always"` cuts their lengths unchecked, `"never"` cuts nothing.

    Raises
    ------
    ValueError
        If a sequence is empty or missing (`NA`), has a character that is not DNA, is shorter than the flanks that
        `"always"` cuts, or if its variable part has no A, C, G, T, U or `[MASK]`, or is longer than `strand_length`.
        With `truncation=True`, the middle `strand_length` nucleotides are kept instead.

    Examples
    --------
    >>> tokenizer = KmerTokenizer(strand_length=8, kmer_size=3)
    >>> tokenizer("acgtr")["input_ids"]
    [4, 0, 1, 2, 3, 4, 4, 4, 4, 4, 4, 0, 1, 2, 3, 4]
    >>> tokenizer.decode(tokenizer("ACGT")["input_ids"])
    'ACGT'
    >>> tokenizer.kmers("ACGT")[:4]
    ['-NN', 'NNA', 'NAC', 'ACG']
    """

    vocab_files_names: dict[str, str] = {}  # noqa: RUF012  the name and type that transformers reads
    model_input_names: list[str] = ["input_ids"]  # noqa: RUF012
    _auto_class = "AutoTokenizer"

    def __init__(
        self,
        kmer_size: int = 10,
        strand_length: int = 100,
        flank5: str = FLANK5,
        flank3: str = FLANK3,
        trimming: str = "auto",
        **kwargs,
    ):
        for name, value in (("kmer_size", kmer_size), ("strand_length", strand_length)):
            if not isinstance(value, int) or not 1 <= value <= MOST_LETTERS:
                raise ValueError(f"`{name}` must be an integer from 1 to {MOST_LETTERS:,}, got {value!r}")
        if kmer_size > 2 * strand_length:
            raise ValueError(f"`kmer_size` {kmer_size} is longer than both strands together ({2 * strand_length})")
        if trimming not in ("auto", "always", "never"):
            raise ValueError(f'`trimming` must be "auto", "always" or "never", got {trimming!r}')
        for name, value in (("flank5", flank5), ("flank3", flank3)):
            if not isinstance(value, str) or set(value.upper()) - set("ACGT"):
                raise ValueError(f"`{name}` must be DNA of A, C, G and T (or empty), got {value!r}")
        self.kmer_size = kmer_size
        self.strand_length = strand_length
        self.flank5 = flank5.upper()
        self.flank3 = flank3.upper()
        self.trimming = trimming
        self._flank5_ids = _LETTER_IDS[np.frombuffer(self.flank5.encode(), np.uint8)]
        self._flank3_ids = _LETTER_IDS[np.frombuffer(self.flank3.encode(), np.uint8)]
        kwargs["model_max_length"] = 2 * strand_length
        kwargs.setdefault("pad_token", "N")
        kwargs.setdefault("mask_token", "[MASK]")
        super().__init__(
            kmer_size=kmer_size,
            strand_length=strand_length,
            flank5=self.flank5,
            flank3=self.flank3,
            trimming=trimming,
            **kwargs,
        )

    @property
    def vocab_size(self) -> int:
        """Number of tokens: A, C, G, T, N and the mask."""
        return len(LETTERS)

    def get_vocab(self) -> dict[str, int]:
        """Tokens and their ids."""
        return {letter: index for index, letter in enumerate(LETTERS)}

    def encode_strands(self, letters: np.ndarray, offsets: np.ndarray, truncation: bool = False) -> StrandBatch:
        """Encode the forward strands of a batch from the bytes of its text; problems are returned, not raised.

        Parameters
        ----------
        letters : numpy.ndarray
            uint8 bytes of the concatenated sequences, as in the data buffer of an Arrow string array.
        offsets : numpy.ndarray
            (batch + 1,) integers: sequence i is `letters[offsets[i] : offsets[i + 1]]`.
        truncation : bool
            Truncate sequences that are longer than `strand_length` instead of reporting them.

        Returns
        -------
        StrandBatch
        """
        offsets = np.asarray(offsets, dtype=np.int64)
        letters, offsets = letters[offsets[0] : offsets[-1]], offsets - offsets[0]
        codes = _LETTER_IDS[letters]
        bad_rows = _rows_of(np.flatnonzero(codes == _INVALID), offsets)
        if bad_rows.size:
            letters, offsets = _strip_rows(letters, offsets, bad_rows)
            codes = _LETTER_IDS[letters]
            bad_rows = _rows_of(np.flatnonzero(codes == _INVALID), offsets)
        starts, lengths, problem = self._trim(codes, offsets)
        trimmed = lengths < np.diff(offsets)
        problem[(lengths == 0) & (problem == 0)] = EMPTY
        variable_lengths = lengths
        if truncation:
            starts = starts + np.maximum(lengths - self.strand_length, 0) // 2
            lengths = np.minimum(lengths, self.strand_length)
        problem[(lengths > self.strand_length) & (problem == 0)] = TOO_LONG
        problem[bad_rows] = BAD_LETTER
        row_lengths = np.diff(offsets)
        for row in np.flatnonzero((row_lengths > 0) & (row_lengths <= _LONGEST_WORD)):
            if is_missing(letters[offsets[row] : offsets[row + 1]].tobytes().decode("latin-1")):
                problem[row] = MISSING
        ids = self._pad_centered(codes, starts, np.where(problem == 0, lengths, 0))
        unknown = np.flatnonzero((ids[:, (self.strand_length - 1) // 2] == N_ID) & (problem == 0))
        problem[unknown[(ids[unknown] == N_ID).all(axis=1)]] = NO_BASE
        return StrandBatch(ids, variable_lengths, problem, trimmed)

    def explain(self, text: str, problem: int, length: int) -> str:
        """Describe the problem and the length that `encode_strands` returned for a text; empty without a problem."""
        text = strip_marks(text)
        if problem == BAD_LETTER:
            letters = enumerate(text)
            position = next(i for i, letter in letters if ord(letter) > 127 or _LETTER_IDS[ord(letter)] == _INVALID)
            kind = "digit" if text[position].isdecimal() else "letter"
            return f"{kind} {text[position]!r} at position {position + 1} (counted from 1) is not DNA"
        if problem == MISSING:
            return f"missing sequence {text!r}"
        if problem == NO_BASE:
            return "no A, C, G or T in the sequence" + (" between its flanks" if len(text) > length else "")
        if problem == TOO_SHORT:
            flanks = f"{len(self.flank5)} + {len(self.flank3)} nt"
            return f"{length} nt are fewer than the flanks that trimming='always' cuts ({flanks})"
        if problem == EMPTY:
            return "empty sequence" if not text else "nothing is left of the sequence after trimming the flanks"
        return f"{length} nt are more than the {self.strand_length} that the model reads" if problem else ""

    def _trim(self, codes: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find the starts, lengths and problems (batch,) of the variable parts."""
        starts, lengths = offsets[:-1], np.diff(offsets)
        problem = np.zeros(len(lengths), dtype=np.uint8)
        left, right = len(self.flank5), len(self.flank3)
        if self.trimming == "never" or left + right == 0:
            return starts, lengths, problem
        trimmed = lengths >= left + right
        if self.trimming == "always":
            problem[~trimmed] = TOO_SHORT
        else:
            rows = np.flatnonzero(trimmed)
            ends = offsets[1:][rows]
            has_flank5 = (codes[starts[rows, None] + np.arange(left)] == self._flank5_ids).all(axis=1)
            has_flank3 = (codes[ends[:, None] + np.arange(-right, 0)] == self._flank3_ids).all(axis=1)
            trimmed[rows] = has_flank5 & has_flank3
        return starts + left * trimmed, lengths - (left + right) * trimmed, problem

    def _pad_centered(self, codes: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Center each piece of `codes` in a row of N (batch, strand_length)."""
        length = self.strand_length
        left = (length - lengths) // 2
        margin = np.full(length, N_ID, dtype=np.uint8)
        windows = np.lib.stride_tricks.sliding_window_view(np.concatenate([margin, codes, margin]), length)
        ids = windows[starts - left + length]
        small = np.min_scalar_type(2 * length)
        position = np.arange(length, dtype=small)
        first, last = left.astype(small)[:, None], (left + lengths).astype(small)[:, None]
        ids[(position < first) | (position >= last)] = N_ID
        return ids

    def kmers(self, text: str) -> list[str]:
        """Return the k-mers of the `2 * strand_length` positions of a sequence.

        The window of position i starts `(kmer_size - 1) // 2` positions before it. It may reach from the forward strand
        into the reverse one; positions beyond the ends are written `-`.
        """
        left = (self.kmer_size - 1) // 2
        letters = ["-"] * left + self.tokenize(text) + ["-"] * (self.kmer_size - 1 - left)
        return ["".join(letters[i : i + self.kmer_size]) for i in range(2 * self.strand_length)]

    def tokenize(self, text: str, **kwargs) -> list[str]:
        """Return the `2 * strand_length` tokens of both strands of a sequence."""
        return self.convert_ids_to_tokens(self(text, **kwargs)["input_ids"])

    def _encode_plus(
        self,
        text,
        text_pair=None,
        truncation_strategy: TruncationStrategy = TruncationStrategy.DO_NOT_TRUNCATE,
        max_length: int | None = None,
        return_tensors=None,
        return_attention_mask: bool | None = None,
        **kwargs,
    ) -> BatchEncoding:
        if text_pair is not None:
            raise ValueError("a promoter is one sequence: pairs are not supported")
        if max_length is not None and max_length < 2 * self.strand_length:
            raise ValueError(
                f"max_length={max_length} is not possible: every sequence gives 2 * strand_length = "
                f"{2 * self.strand_length} ids"
            )
        is_single = isinstance(text, str) or not isinstance(text, Iterable)
        truncation = truncation_strategy != TruncationStrategy.DO_NOT_TRUNCATE
        forward = self._encode_texts([text] if is_single else list(text), truncation, is_single)
        data = {"input_ids": np.concatenate([forward, reverse_complement(forward)], axis=1).astype(np.int64)}
        if return_attention_mask:
            data["attention_mask"] = np.ones_like(data["input_ids"])
        if return_tensors is not None:
            return BatchEncoding(data, tensor_type=return_tensors)
        return BatchEncoding({name: (rows[0] if is_single else rows).tolist() for name, rows in data.items()})

    def _encode_texts(self, texts: list[str], truncation: bool, is_single: bool) -> np.ndarray:
        """Forward strands (batch, strand_length); raises for the first text with a problem."""
        for index, text in enumerate(texts):
            if not isinstance(text, str):
                raise ValueError(f"sequence {index} of the batch: expected DNA as a str, got {type(text).__name__}")
        if not "".join(texts).isascii():
            texts = list(map(strip_marks, texts))  # white space outside ASCII
        # One byte per token. Characters outside ASCII become `?`, which is not DNA.
        pieces = [text.encode("ascii", "replace").replace(b"[MASK]", _MASK_BYTE) for text in texts]
        offsets = np.cumsum([0, *map(len, pieces)])
        batch = self.encode_strands(np.frombuffer(b"".join(pieces), np.uint8), offsets, truncation)
        if not batch.problem.any():
            return batch.ids
        index = int(np.flatnonzero(batch.problem)[0])
        problem = int(batch.problem[index])
        text = texts[index].replace("[MASK]", "N" * len("[MASK]"))  # keeps the positions
        message = "" if is_single else f"sequence {index} of the batch: "
        message += self.explain(text, problem, int(batch.lengths[index]))
        if problem == BAD_LETTER:
            message += "; A, C, G, T, U, N, IUPAC ambiguity letters and [MASK] are"
        elif problem == TOO_LONG:
            message += " (`strand_length`); pass truncation=True to keep its middle, or check the flanks"
        raise ValueError(message)

    def _convert_token_to_id(self, token: str) -> int | None:
        return LETTERS.index(token) if token in LETTERS else None

    def _convert_id_to_token(self, index: int) -> str:
        if not 0 <= index < len(LETTERS):
            raise ValueError(f"unknown token id {index}: ids are 0 to {len(LETTERS) - 1}")
        return LETTERS[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """Join tokens without spaces."""
        return "".join(tokens)

    def _decode(self, token_ids, skip_special_tokens: bool = False, **kwargs) -> str:
        """Decode the forward strand without padding. N at the ends of the sequence are lost too."""
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        if len(ids) == 2 * self.strand_length:
            ids = ids[: self.strand_length]
        text = "".join(self._convert_id_to_token(int(index)) for index in ids).strip("N")
        return text.replace("[MASK]", "").replace("N", "") if skip_special_tokens else text
