"""`python -m charlstm` is the `charlstm` command."""

from charlstm.cli import main

if __name__ == "__main__":
    main()
