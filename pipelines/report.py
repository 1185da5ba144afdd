"""Write the comparison as a page, as Markdown and as pictures."""

from pipelines.script import start

if __name__ == "__main__":
    start("report", __doc__)
