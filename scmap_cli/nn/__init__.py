"""Torch building blocks shared by the models. Imports no anndata."""
