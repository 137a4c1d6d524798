"""Capabilities a target lacks, imitated by prompting. Pure: no I/O, no Django."""
