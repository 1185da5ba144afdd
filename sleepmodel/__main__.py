"""`python -m sleepmodel MODEL`: a conversation with a model in a terminal."""

from sleepmodel.inference.terminal import main

if __name__ == "__main__":
    main()
