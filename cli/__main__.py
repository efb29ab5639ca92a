"""Makes ``python -m cafe.cli`` the same as ``cafe``."""

from __future__ import annotations

from cafe.cli.app import main

if __name__ == "__main__":
    main()
