"""EDM2, the magnitude-preserving diffusion U-Net (arXiv 2312.02696), written from the paper."""
