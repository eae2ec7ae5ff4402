"""autohyp runs honest, unattended science on a small LLM training script.

The way of one experiment through the code is described in docs/structure.md.
"""

__all__ = ["__version__"]
__version__ = "0.1.0"
