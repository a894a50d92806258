"""Recorded drives on disk: writing, reading, checking and collecting them."""
