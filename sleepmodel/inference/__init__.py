"""Reading and generating with a model that sleeps."""
