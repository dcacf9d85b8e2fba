"""Knowledge distillation with PyTorch Lightning: a large teacher, and a small student that learns from it."""

__version__ = "0.1.0"
