"""What each stage of an experiment does."""
