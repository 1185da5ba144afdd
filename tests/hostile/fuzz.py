"""Coverage-guided fuzzing of the readers, for a bounded time: python -m tests.hostile.fuzz [SECONDS for each]"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

READERS = ("dataset.json", "listed shard", "imported problems", "used memory", "config.json", "overrides")


def main(seconds: int) -> None:
    """Fuzz one reader after another, each in a process of its own; exit status 1 where one was not refused well."""
    failed = [name for name in READERS if subprocess.run([*_THIS, name, str(seconds)]).returncode]
    print(f"fuzzed {len(READERS)} readers for {seconds} s each; failed: {', '.join(failed) or 'none'}")
    sys.exit(bool(failed))


def fuzz(name: str, seconds: int) -> None:
    """Fuzz a reader; the input that broke it is left in the current directory as crash-*."""
    import atheris

    with atheris.instrument_imports(
        include=["datagen", "pipelines.config.overrides", "sleepmodel.serialization", "sleepmodel.inference"]
    ):
        from tests.hostile.surfaces import SURFACES

    surface = SURFACES[name]
    with tempfile.TemporaryDirectory() as directory:
        place, corpus = Path(directory, "place"), Path(directory, "corpus")
        place.mkdir()
        corpus.mkdir()
        for number, content in enumerate(surface.valid(place)):
            (corpus / str(number)).write_bytes(content)
        # libFuzzer would cut the valid files to 4 KiB; a busy machine lengthens what a reader takes
        limits = [f"-max_total_time={seconds}", "-timeout=60", "-rss_limit_mb=8192", "-verbosity=0", "-max_len=65536"]
        atheris.Setup([name, *limits, str(corpus)], lambda content: surface.check(content, place))
        atheris.Fuzz()


_THIS = (sys.executable, "-m", "tests.hostile.fuzz")

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if len(sys.argv) == 3:
        fuzz(sys.argv[1], int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) == 2 else 30)
