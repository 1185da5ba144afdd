"""`python -m benchmarks.evidence`: run the experiments of docs/evidence.md and publish their results."""

from benchmarks.evidence.run import main

main()
