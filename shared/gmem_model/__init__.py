"""The networks, transports, samplers and the engine; the only shared package that imports torch."""
