"""Typed results, and the tables, pictures and pages that show them."""
