"""Launch buttons only where they work: Colab opens notebooks, not Markdown pages."""

from sphinx.application import Sphinx


def keep_what_works(app: Sphinx, pagename: str, _template, context: dict, _doctree) -> None:
    if str(app.env.doc2path(pagename)).endswith(".ipynb"):
        return
    for button in context.get("header_buttons", []):
        if button.get("label") == "launch-buttons":
            button["buttons"] = [entry for entry in button["buttons"] if "colab" not in entry["url"]]


def setup(app: Sphinx) -> dict:
    app.connect("html-page-context", keep_what_works, priority=900)  # after the theme has made the buttons
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
