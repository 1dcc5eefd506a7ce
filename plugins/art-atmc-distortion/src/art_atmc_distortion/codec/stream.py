r"""Bytes of an image and back: the codec's symbols through the range coder of ``constriction``.

The file is a header of a magic number, a fingerprint of the weights, both sides and a checksum of the symbols, 14 bytes
for most images, and then the coder's words. The entropy model runs in double precision, and the means and log-scales
that come out of it are rounded to sixteenths before tables are made of them: encoder and decoder then agree unless a
rounding error of 1e-13 meets a boundary. Where they would not agree, the checksum says so.
"""

from __future__ import annotations

import copy
import hashlib
import struct
import zlib
from typing import Any, Final, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from art_atmc_distortion.codec.network import Codec
from art_atmc_distortion.codec.prior import LARGEST
from art_atmc_distortion.codec.transform import BLOCK

__all__ = ["MAX_PIXELS", "Coder"]

MAX_PIXELS: Final = 1 << 22
"""That an image may have by default: coding one takes some hundred bytes of memory a pixel."""
_MAGIC: Final = b"\xd1C"
_HEADER: Final = struct.Struct("<2s4sHHI")
_LEVELS: Final = 16

Bytes = npt.NDArray[np.uint8]


@final
class Coder:
    """Encodes and decodes images with a trained codec.

    :param codec: trained; it is put into evaluation mode, and later changes of its weights are not seen.
    :raises ImportError: when ``constriction`` is missing.

    >>> coder = Coder(Codec())
    >>> image = np.full((9, 5, 3), 77, np.uint8)
    >>> coder.decode(coder.encode(image)).shape
    (9, 5, 3)
    """

    def __init__(self, codec: Codec) -> None:
        self._coder = _constriction()
        self.codec = copy.deepcopy(codec).eval().requires_grad_(False)
        self._prior = copy.deepcopy(self.codec.prior).double()
        held = b"".join(tensor.numpy().tobytes() for tensor in self.codec.state_dict().values())
        self.fingerprint = hashlib.sha256(held).digest()[:4]

    @torch.inference_mode()
    def encode(self, image: Bytes, *, max_pixels: int = MAX_PIXELS) -> bytes:
        """The bytes of an image.

        :param image: (height, width, 3), uint8; sides of any length from 1 to 32767.
        :raises TypeError: for values that are not uint8.
        :raises ValueError: for another shape, an empty image or one of more than ``max_pixels``.
        """
        _check_image(image, max_pixels)
        encoder = self._coder.stream.queue.RangeEncoder()
        y = self.codec.analysed(self._blocks(image))

        def choose(group: slice, mask: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
            mean, scale = _leveled(mean), _leveled(scale)
            k = self.codec.quantized(y[:, group].double(), mean, scale) * mask
            encoder.encode(_picked(k, mask).astype(np.int32), self._model(), *_parameters(mean, scale, mask))
            return k

        symbols, _, _ = self._prior((1, *y.shape[2:]), choose)
        words = encoder.get_compressed().astype("<u4").tobytes()
        # The last word of the coder often has trailing zeros, which reading past the end gives too.
        header = _HEADER.pack(_MAGIC, self.fingerprint, *image.shape[:2], _checksum(symbols))
        return header + words.rstrip(b"\0")

    @torch.inference_mode()
    def decode(self, data: bytes, *, max_pixels: int = MAX_PIXELS) -> Bytes:
        """The image of what :meth:`encode` wrote, (height, width, 3), uint8.

        :param max_pixels: most that the header may announce, which bounds memory and time.
        :raises ValueError: for data of another kind or another model, damaged or cut off; never another image.
        """
        if len(data) < _HEADER.size or data[:2] != _MAGIC:
            raise ValueError("these bytes are no image of this codec; give what `encode` wrote")
        _, fingerprint, height, width, checksum = _HEADER.unpack_from(data)
        if fingerprint != self.fingerprint:
            raise ValueError(
                f"the image was encoded with the model {fingerprint.hex()}, this is {self.fingerprint.hex()}; give the "
                "model that encoded it"
            )
        if not 0 < height * width <= max_pixels:
            raise ValueError(
                f"the header announces {height} x {width} pixels, more than `max_pixels` {max_pixels} or none; the "
                "data is damaged, or raise `max_pixels`"
            )
        body = data[_HEADER.size :]
        words = np.frombuffer(body + bytes(-len(body) % 4), "<u4").astype(np.uint32)
        decoder = self._coder.stream.queue.RangeDecoder(words)

        def choose(group: slice, mask: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
            mean, scale = _leveled(mean), _leveled(scale)
            taken = decoder.decode(self._model(), *_parameters(mean, scale, mask))
            k = torch.zeros_like(mean)
            k[:, :, mask] = torch.from_numpy(taken.astype(np.float64)).reshape(1, mean.shape[1], -1)
            return k

        try:
            symbols, mean, scale = self._prior((1, -(-height // BLOCK), -(-width // BLOCK)), choose)
        except AssertionError:
            raise ValueError("the image is damaged: its symbols can't be decoded; get the file again") from None
        if _checksum(symbols) != checksum:
            raise ValueError("the image is damaged or cut off: its symbols have another checksum; get the file again")
        return self._image(symbols, mean, scale, height, width)

    @torch.inference_mode()
    def reconstruct(self, image: Bytes, *, max_pixels: int = MAX_PIXELS) -> Bytes:
        """What :meth:`decode` will give, without coding."""
        _check_image(image, max_pixels)
        y = self.codec.analysed(self._blocks(image))

        def choose(group: slice, mask: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
            return self.codec.quantized(y[:, group].double(), _leveled(mean), _leveled(scale)) * mask

        return self._image(*self._prior((1, *y.shape[2:]), choose), *image.shape[:2])

    def _image(self, symbols: Tensor, mean: Tensor, scale: Tensor, height: int, width: int) -> Bytes:
        found = self.codec.synthesised(symbols.float(), _leveled(mean).float(), _leveled(scale).float())
        shown = found[0, :, :height, :width].round().clamp(0, 255).to(torch.uint8)
        return shown.permute(1, 2, 0).contiguous().numpy()

    def _blocks(self, image: Bytes) -> Tensor:
        """Padded to whole blocks with the last row and column."""
        pads = [(0, -length % BLOCK) for length in image.shape[:2]]
        padded = np.pad(image, (*pads, (0, 0)), mode="edge")
        return torch.from_numpy(padded).permute(2, 0, 1)[None].float()

    def _model(self) -> Any:
        return self._coder.stream.model.QuantizedLaplace(-LARGEST, LARGEST)


def _constriction() -> Any:
    try:
        import constriction
    except ImportError:
        raise ImportError(
            "encoding needs `constriction`, which is not installed; pip install 'art-atmc-distortion[codec]'"
        ) from None
    return constriction


def _check_image(image: Any, max_pixels: int) -> None:
    if getattr(image, "dtype", None) != np.uint8:
        raise TypeError(
            f"an image must be an array of uint8, got {getattr(image, 'dtype', type(image).__name__)}; values from 0 "
            "to 255, not shares"
        )
    if image.ndim != 3 or image.shape[2] != 3:
        remedy = "repeat the one channel three times" if image.ndim == 2 else "leave transparency out"
        raise ValueError(f"an image must have the shape (height, width, 3), got {image.shape}; {remedy}")
    height, width = image.shape[:2]
    if not (0 < height < 2**15 and 0 < width < 2**15 and height * width <= max_pixels):
        raise ValueError(
            f"an image must have sides from 1 to 32767 and at most {max_pixels} pixels, got {height} x {width}; cut it "
            "into parts, or raise `max_pixels`"
        )


def _leveled(parameters: Tensor) -> Tensor:
    return (parameters * _LEVELS).round() / _LEVELS


def _picked(values: Tensor, mask: Tensor) -> npt.NDArray[Any]:
    return np.ascontiguousarray(values[0][:, mask].numpy()).reshape(-1)


def _parameters(mean: Tensor, scale: Tensor, mask: Tensor) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    return _picked(mean.clamp(-LARGEST, LARGEST), mask), np.exp(_picked(scale, mask))


def _checksum(symbols: Tensor) -> int:
    return zlib.crc32(symbols.to(torch.int16).numpy().astype("<i2").tobytes())
