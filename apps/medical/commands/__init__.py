"""Verbs of the command line that have files of their own; run.py registers them."""
