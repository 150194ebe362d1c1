"""What a user would pick instead, serving the same network; each in an environment of its own."""
