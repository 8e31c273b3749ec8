"""The version, also of files that say which one made them."""

__version__ = "0.2.0"
