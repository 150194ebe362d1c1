"""What `benchmarks/bank.py` is made of."""
