"""mprm: data selection, training and evaluation of multimodal process reward models."""

__version__ = "0.1.0"
