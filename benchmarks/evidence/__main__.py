"""`python -m benchmarks.evidence`: run experiments and publish what they found."""

from benchmarks.evidence.experiments import main

main()
