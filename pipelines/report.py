"""Write the comparison as a page, as Markdown and as pictures."""

from pipelines.cli import main

if __name__ == "__main__":
    main("report", __doc__)
