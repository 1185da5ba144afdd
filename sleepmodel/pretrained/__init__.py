"""Pretrained models of other projects: read from Hugging Face's directories, extended by fast weights, and written."""
