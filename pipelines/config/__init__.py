"""What an experiment is, its presets, and how the command line changes them."""
