"""A quiz in the page: questions with answers to choose from, each with a reply. It needs no script and no network.

    ```{quiz}
    Which of these must be kept to train a layer's weights?

    - [ ] its output | The output is the next layer's input; this layer does not need it.
    - [x] its input | Right: the weight's gradient is a product of the input and the output's gradient.
    ```

A choice is a radio button, and a style sheet shows the reply to the one that is chosen. On paper the replies follow
their answers.
"""

import re

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx

ANSWER = re.compile(r"- \[([ x])\] (.+?) \| (.+)")


class quiz_answer(nodes.General, nodes.Element):
    """One answer: ``right``, ``group`` (its question), ``key``; its children are the answer's text and the reply."""


class Quiz(Directive):
    has_content = True

    def run(self) -> list[nodes.Node]:
        lines = list(self.content)
        first = next((index for index, line in enumerate(lines) if line.startswith("- [")), len(lines))
        answers = [ANSWER.fullmatch(line.strip()) for line in lines[first:] if line.strip()]
        if not 2 <= len(answers) or None in answers or [answer[1] for answer in answers].count("x") != 1:
            raise self.error(
                "a quiz has a question, then two answers or more, '- [ ] answer | reply', one of them '[x]'"
            )
        env = self.state.document.settings.env
        group = f"quiz-{env.new_serialno('quiz')}"
        box = nodes.container(classes=["quiz"])
        question = nodes.container(classes=["quiz-question"])
        self._parse(lines[:first], question)
        box += question
        for number, answer in enumerate(answers):
            entry = quiz_answer(right=answer[1] == "x", group=group, key=f"{group}-{number}")
            for kind, text in (("quiz-text", answer[2]), ("quiz-reply", answer[3])):
                part = nodes.container(classes=[kind])
                self._parse([text], part)
                entry += part
            box += entry
        return [box]

    def _parse(self, lines: list[str], into: nodes.Element) -> None:
        self.state.nested_parse(StringList(lines, self.state.document["source"]), self.content_offset, into)


def visit(self, node: quiz_answer) -> None:
    right = "right" if node["right"] else "wrong"
    self.body.append(
        f'<div class="quiz-answer quiz-{right}"><input type="radio" name="{node["group"]}" id="{node["key"]}"/>'
        f'<label for="{node["key"]}">'
    )


def depart(self, _node: quiz_answer) -> None:
    self.body.append("</label></div>\n")


def setup(app: Sphinx) -> dict:
    app.add_node(quiz_answer, html=(visit, depart))
    app.add_directive("quiz", Quiz)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
