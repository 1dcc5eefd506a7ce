"""``art-atmc-codec``: train a codec to a quality, encode, decode, and compare with JPEG and WebP."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

try:
    import typer
except ImportError:
    raise ImportError("art-atmc-codec needs the extra: pip install 'art-atmc-distortion[codec]'") from None

__all__ = ["app", "main"]

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help="A learned image codec."
)
Model = Annotated[Path, typer.Option(help="The codec, a file of `train`.")]


@app.command()
def train(
    photographs: Annotated[Path, typer.Argument(help="Folder of photographs; a corner of each is held out.")],
    model: Model,
    psnr: Annotated[
        float, typer.Option(help="Quality that is trained to, in decibels, on the held-out corners.")
    ] = 32.0,
    start: Annotated[Path | None, typer.Option(help="A trained codec to begin from.")] = None,
    steps: Annotated[int, typer.Option(help="Of training.", min=1)] = 1500,
    seed: Annotated[int, typer.Option(help="Of weights and patches.")] = 0,
) -> None:
    """Train to a quality; started again with the same options it goes on where it was interrupted."""
    import torch

    from art_atmc_distortion.codec.network import Codec
    from art_atmc_distortion.codec.photographs import Photographs
    from art_atmc_distortion.codec.training import Recipe, calibrate, distortion, load, mse, save
    from art_atmc_distortion.codec.training import train as trained

    images = Photographs.of(photographs)
    torch.manual_seed(seed)
    codec = Codec() if start is None else load(start)
    bound, patches = mse(psnr), images.held_out(512, 64)
    recipe = Recipe(bound, steps, seed=seed)
    trained(codec, images, recipe, held_out=patches, checkpoint=model.with_suffix(".checkpoint"))
    before = distortion(codec, patches)[1]
    calibrate(codec, patches, bound)
    rate, after = distortion(codec, patches)
    save(codec, model)
    typer.echo(
        f"held out: distortion {before / bound:.3f} of the bound, calibrated {after / bound:.3f}; {rate:.3f} bpp"
    )


@app.command()
def encode(image: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP.")], output: Path, model: Model) -> None:
    """Write an image as a file of the codec."""
    from art_atmc_distortion.codec.photographs import opened
    from art_atmc_distortion.codec.stream import Coder
    from art_atmc_distortion.codec.training import load

    pixels = opened(image)
    data = Coder(load(model)).encode(pixels)
    output.write_bytes(data)
    typer.echo(f"{len(data):,} bytes, {8 * len(data) / (pixels.shape[0] * pixels.shape[1]):.3f} bits a pixel")


@app.command()
def decode(data: Path, output: Annotated[Path, typer.Argument(help="A PNG.")], model: Model) -> None:
    """Write the image of a file of the codec."""
    from PIL import Image

    from art_atmc_distortion.codec.stream import Coder
    from art_atmc_distortion.codec.training import load

    Image.fromarray(Coder(load(model)).decode(data.read_bytes())).save(output)


@app.command()
def evaluate(
    images: Annotated[list[Path], typer.Argument(help="Lossless images.")],
    model: Annotated[list[Path], typer.Option(help="Codecs of different qualities; may be repeated.")],
) -> None:
    """Bytes and quality over images, against Pillow's JPEG and WebP."""
    from art_atmc_distortion.codec.measures import bd_rate
    from art_atmc_distortion.codec.photographs import read
    from art_atmc_distortion.codec.references import QUALITIES, coded, jpeg, over, webp
    from art_atmc_distortion.codec.stream import Coder
    from art_atmc_distortion.codec.training import load

    pictures = read(images)
    points = sorted((over(pictures, coded(Coder(load(one)))) for one in model), key=lambda point: point.bpp)
    for point in points:
        typer.echo(f"{point.bpp:.3f} bits a pixel, {point.psnr:.2f} dB")
    curve = [(point.bpp, point.psnr) for point in points]
    for name, reference in (("JPEG", jpeg), ("WebP", webp)):
        other = [(point.bpp, point.psnr) for point in (over(pictures, reference(quality)) for quality in QUALITIES)]
        if len(curve) > 1:
            typer.echo(f"BD-rate against {name}: {bd_rate(curve, other):+.1%}")


def main() -> None:
    """Run a command; what a user can mend is one sentence on stderr and exit status 2."""
    try:
        app()
    except (ValueError, OSError, TypeError, ImportError) as error:
        typer.echo(f"art-atmc-codec: {error}", err=True)
        sys.exit(2)
