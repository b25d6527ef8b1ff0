"""Figures; a figure that fails never fails a run."""
