"""python -m quests_md: the command line."""

from .cli import main

main()
