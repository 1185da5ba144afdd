"""Results, typed, and the pages, tables and pictures made of them."""
