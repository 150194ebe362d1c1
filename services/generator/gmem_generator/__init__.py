"""The front end: admission, bank draw, batching, answers. Imports no torch."""
