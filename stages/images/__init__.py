"""Pictures: reading one from anywhere (`reading`), and the pool of those without labels (`pool`)."""

from stages.images.reading import UnreadableImage, decode, load_all, read, read_all, sha256

__all__ = ["UnreadableImage", "decode", "load_all", "read", "read_all", "sha256"]
