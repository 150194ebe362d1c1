"""Speed, measured side by side; see README.md for the results."""
