r"""Tensors as bytes near the entropy bound, bit for bit.

A tensor is seen as n machine words. Some are zero, and the others often take few values, so a form may store

* *positions*: which words differ from zero, as gaps between them;
* *codes*: which entry of a codebook a word is, in place of the word;

and :func:`encode` takes the cheapest combination. Words, where they are few, gaps and codes go through one range coder
(``constriction``) whose models are made of small whole numbers only, so that every machine decodes what another
encoded. Words are compared as bits: minus zero, infinities and NaNs come back as they were.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final, TypeAlias, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_atmc.files.range_coding import RangeEncoder, SymbolReader, Uniform, put_symbols
from art_atmc.files.words import MAX_PACKED, packed_bits, put_words, take_words

__all__ = ["EncodedTensor", "codebook_bits", "decode", "encode", "entropy_bits"]

Words: TypeAlias = npt.NDArray[Any]

DTYPES: Final[dict[str, torch.dtype]] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
MAX_CODES: Final = 65_536
MAX_SHIFT: Final = 20
OVERHEAD: Final = 96  # bits that the coder's last word and the frequencies of the gaps take, about
FLUSH: Final = 40  # bits that the coder's last word takes
BLOCK: Final = 1 << 20  # codes that are decoded at a time
ESCAPE: Final = 63  # the gap goes on: what the symbol adds to its high part


@final
@dataclasses.dataclass(frozen=True)
class EncodedTensor:
    """One tensor as it stands in the file.

    :param dtype: torch's name of the type, such as ``"float32"``.
    :param shape: of the tensor.
    :param record: the codebook or the words, where they are not packed, then the range coder's output.
    :param nnz: number of words that differ from zero, where positions are stored; else None.
    :param codes: number of entries of the codebook, where there is one; else None.
    :param gaps: number of symbols that tell the gaps.
    :param shift: number of low bits of a gap, which are all but uniform and are coded so.
    :param packed: whether the codebook or the words are in the range coder's output too
        (:mod:`art_atmc.files.words`). A packed codebook of one value needs no codes.
    """

    dtype: str
    shape: tuple[int, ...]
    record: bytes = dataclasses.field(repr=False)
    nnz: int | None = None
    codes: int | None = None
    gaps: int = 0
    shift: int = 0
    packed: bool = False

    @property
    def form(self) -> str:
        """What is stored: ``raw``, ``codes``, ``positions`` or ``positions + codes``."""
        parts = [name for name, count in (("positions", self.nnz), ("codes", self.codes)) if count is not None]
        return " + ".join(parts) or "raw"

    @property
    def like(self) -> str:
        """Type and shape, such as ``float32 (10, 4)``."""
        return f"{self.dtype} {self.shape}"

    @property
    def dense_bytes(self) -> int:
        """Size of the tensor in memory."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def coded(self) -> int:
        """Number of codes that are stored."""
        count = math.prod(self.shape) if self.nnz is None else self.nnz
        return 0 if self.codes is None or (self.packed and self.codes == 1) else count


def encode(tensor: Tensor) -> EncodedTensor:
    """The cheapest form of ``tensor``.

    :param tensor: of a real floating, integer or boolean type, on any device.
    :raises ValueError: for another type, such as a complex one.

    >>> weight = torch.zeros(1000, 1000)
    >>> weight[::100, ::10] = 0.3
    >>> encoded = encode(weight)
    >>> encoded.form, encoded.nnz, encoded.codes, len(encoded.record) < 1200
    ('positions + codes', 1000, 1, True)
    >>> torch.equal(decode(encoded), weight)
    True
    """
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"tensors of type {tensor.dtype} can't be stored; the types are {', '.join(DTYPES)}")
    words = _words(tensor)
    support = np.flatnonzero(words)
    positions, codebook = _cheapest(words, support, tensor.dtype)
    nonzero = words[support] if positions else words
    plain = nonzero if codebook is None else codebook
    packed = _is_packed(plain, tensor.dtype, codebook is not None)
    coder = RangeEncoder()
    if packed:
        put_words(coder, plain, tensor.dtype)
    gaps, shift = 0, 0
    if positions and len(support):
        symbols, low, shift = _split(np.diff(support, prepend=-1) - 1)
        gaps, size = len(symbols), int(symbols.max()) + 1
        coder.encode(np.array([size - 1], np.int32), Uniform(ESCAPE + 1))
        put_symbols(coder, symbols)
        if shift:
            coder.encode(low, Uniform(1 << shift))
    if codebook is not None and not (packed and len(codebook) == 1):
        put_symbols(coder, codebook.searchsorted(nonzero).astype(np.int32))
    return EncodedTensor(
        dtype,
        tuple(tensor.shape),
        (b"" if packed else plain.tobytes()) + coder.get_compressed().astype("<u4").tobytes(),
        len(support) if positions else None,
        None if codebook is None else len(codebook),
        gaps,
        shift,
        packed,
    )


def decode(encoded: EncodedTensor) -> Tensor:
    """The tensor that was encoded, bit for bit, on the CPU.

    :raises ValueError: when the record is not one that :func:`encode` makes.
    """
    dtype = DTYPES[encoded.dtype]
    word, count = _word(dtype), math.prod(encoded.shape)
    nnz = count if encoded.nnz is None else encoded.nnz
    _check_counts(encoded, count, nnz)
    plain, stream = _plain(encoded, nnz if encoded.codes is None else encoded.codes, dtype)
    support = _positions(stream, encoded) if encoded.gaps else None
    if support is not None and support[-1] >= count:
        raise ValueError("its positions leave the tensor")
    words = np.zeros(count, word)
    if encoded.coded:
        model = stream.model(encoded.codes or 0)
        for start in range(0, nnz, BLOCK):  # all at once would take several times the tensor's memory
            block = slice(start, min(start + BLOCK, nnz))
            codes = stream.take(block.stop - start, model)
            if codes.max() >= len(plain):  # the second symbol of an alphabet of one
                raise ValueError("its codes are broken")
            words[block if support is None else support[block]] = plain[codes]
    else:
        words[slice(nnz) if support is None else support] = plain
    stream.finish()
    return torch.from_numpy(words.view(np.uint8)).view(dtype).reshape(encoded.shape)


def entropy_bits(tensor: Tensor, encoded: EncodedTensor) -> float:
    r"""Entropy of positions and codes where each is drawn for itself, in bits; what a record is measured against.

    .. math:: n\,h(z / n) + z\,H(\text{codes}), \qquad
              h(p) = -p \log_2 p - (1 - p) \log_2 (1 - p)

    for n words of which z differ from zero; :math:`H` is the entropy of the codes' frequencies, or the length of a word
    as it is stored. Codebooks are not in it.

    >>> half = torch.tensor([0.3, 0.7]).repeat(400)
    >>> entropy_bits(half, encode(half))
    800.0
    """
    words = _words(tensor)
    stored = words if encoded.nnz is None else words[words != 0]
    bits = _support_bits(len(words), len(stored))
    if encoded.codes is None:
        return bits + (packed_bits(stored, tensor.dtype) if encoded.packed else 8 * stored.nbytes)
    return bits + _code_bits(np.unique(stored, return_counts=True)[1])


def codebook_bits(tensor: Tensor, encoded: EncodedTensor) -> float:
    """Size of the codebook within the record, in bits; 0 where there is none."""
    if encoded.codes is None:
        return 0.0
    words = _words(tensor)
    codebook = np.unique(words if encoded.nnz is None else words[words != 0])
    return packed_bits(codebook, tensor.dtype) if encoded.packed else 8.0 * codebook.nbytes


def _is_packed(plain: Words, dtype: torch.dtype, codebook: bool) -> bool:
    """Whether the words or the codebook go through the coder."""
    if not 0 < len(plain) <= MAX_PACKED:
        return False
    return (codebook and len(plain) == 1) or packed_bits(plain, dtype) + FLUSH < 8 * plain.nbytes


def _plain_bits(plain: Words, dtype: torch.dtype) -> float:
    """What words take that are stored as they are or packed."""
    return packed_bits(plain, dtype) if _is_packed(plain, dtype, codebook=False) else 8.0 * plain.nbytes


def _plain(encoded: EncodedTensor, count: int, dtype: torch.dtype) -> tuple[Words, SymbolReader]:
    """The codebook or the words, and what follows them."""
    word = _word(dtype)
    if encoded.packed and encoded.record:
        stream = SymbolReader(encoded.record)
        plain = take_words(stream, count, dtype)
    else:
        length = count * word.itemsize
        if length > len(encoded.record):
            raise ValueError("it ends early")
        if not (encoded.gaps or encoded.codes or length == len(encoded.record)):
            raise ValueError("it holds more words than entries")
        plain, stream = np.frombuffer(encoded.record[:length], word), SymbolReader(encoded.record[length:])
    if dtype == torch.bool and (plain > 1).any():
        raise ValueError("its truth values are neither 0 nor 1")
    return plain, stream


def _word(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(f"<u{dtype.itemsize}")


def _words(tensor: Tensor) -> Words:
    # A tensor of one element, or of none, is contiguous with any strides, and torch views it as bytes with one alone.
    flat = tensor.detach().cpu().contiguous().as_strided((tensor.numel(),), (1,))
    return flat.view(torch.uint8).numpy().view(_word(tensor.dtype))


def _cheapest(words: Words, support: Words, dtype: torch.dtype) -> tuple[bool, Words | None]:
    """Whether to store positions, and the codebook where codes pay."""
    values = words[support]
    with_positions = _support_bits(len(words), len(values)) + OVERHEAD
    candidates: list[tuple[float, bool, Words | None]] = [(_plain_bits(words, dtype), False, None)]
    if len(values) < len(words):
        candidates.append((with_positions + _plain_bits(values, dtype), True, None))
    if len(values) and (codebook := _codebook(values)) is not None:
        counts = np.bincount(codebook.searchsorted(values))
        cost = with_positions + _code_bits(counts) + _plain_bits(codebook, dtype) + 4 * len(codebook)
        candidates.append((cost, len(values) < len(words), codebook))
    return min(candidates, key=lambda candidate: candidate[0])[1:]


def _codebook(values: Words) -> Words | None:
    """The distinct values, ascending; None where there are too many for codes to pay."""
    # Among values without codes a sample shows it, and spares sorting millions of them.
    sample = np.unique(values[:: max(1, len(values) // MAX_CODES)])
    if len(sample) > min(MAX_CODES, len(values)) / 2 + 1:
        return None
    places = np.minimum(sample.searchsorted(values), len(sample) - 1)
    codebook = sample if (sample[places] == values).all() else np.unique(values)
    return codebook if len(codebook) <= MAX_CODES else None


def _support_bits(count: int, nnz: int) -> float:
    return sum(-part * math.log2(part / count) for part in (nnz, count - nnz) if part)


def _code_bits(counts: Words) -> float:
    return float(-(counts * np.log2(counts / counts.sum())).sum())


def _split(gaps: Words) -> tuple[Words, Words, int]:
    """The high parts of the gaps as symbols up to ESCAPE, their low bits, and how many of these there are.

    Gaps of independent entries fall off geometrically, which is flat over a stretch of a quarter to a half of the mean:
    there the low bits lose under 0.02 bits a gap.
    """
    shift = min(max(int(gaps.mean()).bit_length() - 2, 0), MAX_SHIFT)
    high = gaps >> shift
    ends = (high // ESCAPE + 1).cumsum()
    symbols = np.full(ends[-1], ESCAPE, np.int32)
    symbols[ends - 1] = high % ESCAPE
    return symbols, (gaps & ((1 << shift) - 1)).astype(np.int32), shift


def _positions(stream: SymbolReader, encoded: EncodedTensor) -> Words:
    """Undo :func:`_split` and sum the gaps."""
    [last] = stream.take(1, Uniform(ESCAPE + 1))
    symbols = stream.symbols(encoded.gaps, int(last) + 1)
    ends = np.flatnonzero(symbols < ESCAPE)
    if len(ends) != encoded.nnz or ends[-1] != len(symbols) - 1:
        raise ValueError("its positions are broken")
    gaps = (np.diff(ends, prepend=-1) - 1) * ESCAPE + symbols[ends]
    if encoded.shift:
        gaps = (gaps << encoded.shift) + stream.take(len(gaps), Uniform(1 << encoded.shift))
    support: Words = (gaps + 1).cumsum() - 1
    return support


def _check_counts(encoded: EncodedTensor, count: int, nnz: int) -> None:
    """Nothing announced in the header may cost more than the tensor itself."""
    scattered = encoded.nnz is not None and nnz > 0
    if (
        not 0 <= nnz <= count
        or not 0 <= encoded.shift <= MAX_SHIFT
        or not (nnz <= encoded.gaps <= nnz + count // ESCAPE if scattered else encoded.gaps == 0)
        or not (encoded.codes is None or 0 < encoded.codes <= min(nnz, MAX_CODES))
        or (encoded.packed and not 0 < (nnz if encoded.codes is None else encoded.codes) <= MAX_PACKED)
    ):
        raise ValueError("it announces more or other entries than its shape can hold")
