"""``gmem sample``: many images of one model, by many processes, in one file."""
