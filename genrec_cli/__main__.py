"""``python -m genrec_cli``, which torchrun starts, is the ``genrec`` command."""

from genrec_cli.cli import main

if __name__ == "__main__":
    main()
