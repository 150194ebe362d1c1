"""What the benchmarks share: load, order of measurements, and how results are written down."""
