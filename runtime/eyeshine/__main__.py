"""``python -m eyeshine``."""

from eyeshine.cli import main

main()
