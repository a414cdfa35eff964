"""Pictures: reading one from anywhere (`reading`), and the pool of those without labels (`pool`)."""

from stages.images.reading import UnreadableImage, decode, load, read, sha256

__all__ = ["UnreadableImage", "decode", "load", "read", "sha256"]
