"""The machine: logging, threads, signals, provenance. Imports neither torch nor anndata."""
