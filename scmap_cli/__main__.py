"""``python -m scmap_cli`` is the ``scmap`` command."""

from scmap_cli.cli.app import main

if __name__ == "__main__":
    main()
