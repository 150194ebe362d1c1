"""``python -m gmem_shared`` is ``gmem``."""

from gmem_shared.cli import main

main()
