"""Foreign files into ours: what others published, read without executing any of it."""
