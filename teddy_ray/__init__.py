"""Teddy on Ray: dataset distillation by Taylor-approximated matching (arXiv 2410.07579)."""

__version__ = "0.1.0"
