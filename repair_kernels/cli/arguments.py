"""Options that several commands share, group by group."""

import argparse
from typing import Any

from repair_kernels.balancing import MODES
from repair_kernels.calibration.goals import RESTORE
from repair_kernels.images.preprocessing import NAMED
from repair_kernels.matching.matching import MATCH_BY

Parser = argparse.ArgumentParser
FILE, FOLDER, PATH, PAIR = "FILE", "FOLDER", "PATH", "NAME=VALUE"
"""Metavars; shells complete the first three."""
TAP = "a name, a pattern, or conv, block, norm, activation, all (repeatable)"


def add_command(commands: Any, name: str, run: Any, description: str) -> Parser:
    """Add a command."""
    parser = commands.add_parser(
        name,
        help=description,
        description=f"{description[0].upper()}{description[1:]}.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=run, command=name)
    return parser


def add_printing(parser: Parser) -> None:
    """Add the options that all commands have; last, so that help ends with them."""
    group = parser.add_argument_group("what is printed")
    group.add_argument(
        "--json", action="store_true", help="print the result as one JSON object, and nothing else"
    )
    group.add_argument(
        "--quiet", action="store_true", help="print neither text nor progress; warnings remain"
    )
    group.add_argument(
        "--progress",
        choices=("auto", "always", "never"),
        default="auto",
        help="images per second and time left on standard error (default: auto, on a terminal)",
    )
    group.add_argument(
        "--config",
        metavar=FILE,
        help="TOML file of options: keys are their names, at the top for all commands or in a "
        f"table [{parser.prog.split()[-1]}] for this one; the command line wins",
    )


def add_model(parser: Parser, *, required: bool = True) -> None:
    """Add what builds the networks."""
    group = parser.add_argument_group("the architecture")
    group.add_argument(
        "--model",
        required=required,
        help="what builds it: package.module:callable, torchvision:resnet50 or timm:resnet50",
    )
    group.add_argument(
        "--model-arg", action="append", default=[], metavar=PAIR, help="argument of it (repeatable)"
    )


def add_checkpoints(parser: Parser) -> None:
    """Add where both networks' weights are."""
    group = parser.add_argument_group("the two networks")
    for name in "ab":
        group.add_argument(
            f"--{name}",
            required=True,
            metavar=PATH,
            help=f"checkpoint of network {name}: .safetensors, .pt, .pth, .ckpt, .bin, .npz, an "
            "index of shards, a folder of one of these or of torch.distributed.checkpoint, or "
            "torchvision:ResNet50_Weights.IMAGENET1K_V1",
        )
    for name, whose in (("", "both"), ("-a", "a"), ("-b", "b")):
        group.add_argument(
            f"--key{name}",
            metavar="KEY",
            help="which state dict of a checkpoint with several, such as ema; or which of several "
            f"networks in one, such as state_dict.student; of {whose}",
        )


def add_data(parser: Parser, *, required: bool = True) -> None:
    """Add what the statistics are taken on."""
    group = parser.add_argument_group("the calibration data")
    group.add_argument(
        "--data",
        required=required,
        metavar="DATA",
        help="a folder of class folders of images, .tar shards (train-{000..146}.tar), a file of "
        "tensors (inputs, and class numbers if any), or what returns batches: "
        "package.module:callable",
    )
    group.add_argument(
        "--data-arg",
        action="append",
        default=[],
        metavar=PAIR,
        help="argument of the callable (repeatable)",
    )
    group.add_argument(
        "--samples",
        type=positive,
        metavar="N",
        help="how many images to use at most: of folders and shards drawn at random, of other "
        "data the first (default: all)",
    )
    group.add_argument(
        "--seed", type=int, default=0, metavar="N", help="which images are drawn (default: 0)"
    )
    group.add_argument(
        "--batch-size",
        type=positive,
        default=256,
        metavar="N",
        help="images at a time (default: 256)",
    )
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images (default: 4 with a GPU, else 0)",
    )
    group.add_argument(
        "--preprocessing",
        choices=tuple(NAMED),
        default="imagenet",
        help="of images: resized, cropped and normalised for ImageNet's networks, or none "
        "(default: imagenet)",
    )
    group.add_argument(
        "--image-size",
        type=positive,
        metavar="N",
        help="side of the images, in place of imagenet's 224; its 256 follows in proportion",
    )


def add_computing(parser: Parser) -> None:
    """Add where and how exactly to compute."""
    group = parser.add_argument_group("computing")
    group.add_argument("--device", help="where to run, such as cuda (default: cpu)")
    group.add_argument(
        "--precision",
        default="tf32x3",
        choices=("tf32x3", "tf32", "ieee"),
        help="how a GPU multiplies float32 (default: tf32x3, as exact as ieee)",
    )
    group.add_argument(
        "--process-group",
        choices=("auto", "nccl", "gloo", "none"),
        default="auto",
        help="under torchrun each process takes its part of the data, and the first one writes and "
        "prints; auto: nccl with GPUs, gloo without, none outside of torchrun (default: auto)",
    )


def add_match_by(parser: Parser) -> None:
    """Add what channels are matched by."""
    parser.add_argument(
        "--match-by",
        choices=MATCH_BY,
        default=MATCH_BY[0],
        help="what channels are matched by (default: weights, beside correlations)",
    )


def add_repair(parser: Parser) -> None:
    """Add what is common to the commands that match and correct statistics."""
    add_match_by(parser)
    group = parser.add_argument_group("what is corrected")
    group.add_argument("--tap", action="append", help=f"what to correct: {TAP}")
    group.add_argument(
        "--restore",
        choices=RESTORE,
        default="both",
        help="what corrections restore (default: both mean and std)",
    )
    group.add_argument(
        "--balance",
        choices=MODES,
        default="sign",
        help="which scale symmetries bring b to a's scales first (default: sign)",
    )
    group.add_argument(
        "--batch-mean",
        action="store_true",
        help="average over batches as the published code does (variant forward)",
    )


def add_verify(parser: Parser) -> None:
    """Add whether the permuted network is checked."""
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="run the permuted network beside the original (default)",
    )


def add_input_shape(parser: Parser) -> None:
    """Add the shape of an image, where no data are needed."""
    parser.add_argument(
        "--input-shape",
        type=shape,
        metavar="C,H,W",
        help="shape of one input, such as 3,224,224; in place of --data",
    )


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def shape(text: str) -> tuple[int, ...]:
    """Return whole numbers that are separated by commas."""
    try:
        return tuple(positive(part.strip()) for part in text.split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"expected whole numbers with commas between them, such as 3,224,224; got {text!r}"
        ) from error
