"""Training and evaluation of TinyHD models; needs the package's `train` extra and is no part of the wheel."""
