"""A compressed model without this package: a dense state dict for torch, or arrays for numpy."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.torch
import torch

from art_atmc.support.atomic import write_file

if TYPE_CHECKING:
    from art_atmc.files.model import CompressedModel

__all__ = ["export_npz", "export_state_dict"]


def export_state_dict(model: CompressedModel, path: Path) -> None:
    """Write the dense state dict: with torch's own format for ``.pt`` and ``.pth``, else as ``.safetensors``.

    :raises ValueError: for another suffix.
    """
    state = model.state_dict()
    if path.suffix in (".pt", ".pth"):
        buffer = io.BytesIO()
        torch.save(state, buffer)  # tensors only, so torch.load(path, weights_only=True) reads it
        write_file(path, buffer.getvalue())
    elif path.suffix == ".safetensors":
        # The container knows no ties: each name gets a tensor of its own.
        separate = {name: tensor.clone() if name in model.index.tied else tensor for name, tensor in state.items()}
        write_file(path, safetensors.torch.save(separate))
    else:
        raise ValueError(f"a state dict is written to .pt, .pth or .safetensors, got {path}")


def export_npz(model: CompressedModel, path: Path) -> None:
    """Write the dense state dict as arrays that ``numpy.load`` reads.

    :raises ValueError: for another suffix than ``.npz``, for bfloat16, which numpy does not know, and for names that
        are paths, since programs unpack such an archive into files.
    """
    if path.suffix != ".npz":
        raise ValueError(f"arrays are written to .npz, got {path}")
    state = model.state_dict()
    if strangers := [name for name, tensor in state.items() if tensor.dtype == torch.bfloat16]:
        raise ValueError(f"numpy has no bfloat16, the type of {strangers[:5]}; export a state dict instead")
    if paths := [name for name in state if not name or not name.isprintable() or {*name} & {*"/\\:"}]:
        raise ValueError(f"{paths[:5]} would be paths in an archive; export a state dict instead")
    buffer = io.BytesIO()
    # Not `savez(**arrays)`, which takes names such as `file` for arguments of its own.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, tensor in state.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, tensor.detach().numpy(), allow_pickle=False)
    write_file(path, buffer.getvalue())
