"""`bvit pack` and `bvit unpack`: a run's binary model in a small file, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from bvit_analysis.cli.command import Commands, command


def add_commands(commands: Commands) -> None:
    """Add `pack` and `unpack`."""
    pack = command(
        commands, "pack", _pack, "write a run's binary model with one bit a binary weight"
    )
    pack.add_argument("run", type=Path, help="folder of a run, with its checkpoints")
    pack.add_argument(
        "--out", type=Path, default=Path("model.bvit"), help="file to write (default: model.bvit)"
    )
    pack.add_argument(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of all that is not binary; float32 keeps every output to the bit (default: float32)",
    )
    pack.add_argument(
        "--certify",
        type=int,
        default=0,
        metavar="N",
        help="compare packed inference with the simulated model on N test images; the certificate goes to"
        " OUT.parity.json, and exit code 1 says that they differ",
    )

    unpack = command(
        commands, "unpack", _unpack, "write a packed model as a plain float32 state dict"
    )
    unpack.add_argument("packed", type=Path, help="file that 'bvit pack' wrote")
    unpack.add_argument(
        "--out",
        type=Path,
        default=Path("model.safetensors"),
        help="file to write (default: model.safetensors)",
    )


def _pack(options: argparse.Namespace) -> int:
    from bvit_analysis.packed import save_packed
    from bvit_analysis.packed.run import model_of_run, packing_summary

    model, meta = model_of_run(options.run)
    path = save_packed(model, options.out, meta=meta, float_dtype=options.dtype)
    print(packing_summary(model, path, meta=meta, float_dtype=options.dtype))
    if not options.certify:
        return 0
    from bvit_analysis.runtime.parity import certify_run

    certificate = certify_run(options.run, path, options.certify)
    print(certificate)
    return int(not certificate.passed)


def _unpack(options: argparse.Namespace) -> int:
    from bvit_analysis.packed.run import unpack

    print(unpack(options.packed, options.out))
    return 0
