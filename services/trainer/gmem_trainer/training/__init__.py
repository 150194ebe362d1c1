"""Training of the flow networks: recipe, batches, loss, state, loop, processes."""
