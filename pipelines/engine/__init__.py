"""Stages with identities, run once each: knows no machine learning."""
