"""The bank service: serves memory snippets."""
