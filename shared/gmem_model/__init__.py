"""The networks, transports, samplers and the engine; the only shared package that imports torch."""

import os

# MKL, which multiplies PyTorch's matrices on a CPU, chooses kernels by the number of rows, so that
# an image could differ in the last bits with the company it was made in. In this mode it does not,
# for about 5% of the time. It is read at the first product, and has no other switch than this.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # noqa: TID251 (set for MKL, not read)
