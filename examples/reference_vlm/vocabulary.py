"""The word-level vocabulary, and the exact token layout the model is trained on.

A training sequence is

    <s> user : <image> x 144  QUESTION  assistant :  ANSWER  </s>

The processor's chat template has to reproduce the part before ANSWER token by token, so the pieces live here,
in one place without torch, and both the trainer and the exporter build on them.
"""

import re

SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond")
PLURALS = ("circles", "squares", "triangles", "stars", "crosses", "diamonds")
COLORS = {
    "red": (215, 40, 40),
    "green": (40, 165, 60),
    "blue": (45, 75, 220),
    "yellow": (235, 220, 50),
    "purple": (140, 50, 175),
    "orange": (245, 140, 25),
    "cyan": (60, 215, 225),
    "white": (245, 245, 245),
}
COLOR_NAMES = tuple(COLORS)
PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
NUMBER_WORDS = ("zero", "one", "two", "three", "four")

SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>", "<image>")
PAD, UNK, BOS, EOS, IMAGE = range(len(SPECIAL_TOKENS))

_FUNCTION_WORDS = (  # noqa: SIM905
    "user assistant : ? . what color is the of name shape digit how many are there a do you see where find "
    "left right above below number read written on plate count which yes no"
).split()
_PLACE_WORDS = [word for place in PLACES for word in place.split()]
_DIGITS = [str(value) for value in range(10)]

VOCABULARY = (
    *SPECIAL_TOKENS,
    *dict.fromkeys([*_FUNCTION_WORDS, *SHAPES, *PLURALS, *COLOR_NAMES, *_PLACE_WORDS, *NUMBER_WORDS, *_DIGITS]),
)
TOKEN_ID = {word: index for index, word in enumerate(VOCABULARY)}

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "user: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image> {% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% else %}"
    " assistant: "
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} assistant:{% endif %}"
)


def encode(text: str) -> list[int]:
    """Token ids of `text`, split as the tokenizer's `Whitespace` rule does: runs of letters, runs of punctuation.

    An unknown word raises `KeyError`: the generator must never ask what the model cannot read.
    """
    return [TOKEN_ID[word] for word in re.findall(r"\w+|[^\w\s]+", text.lower())]


HEAD = [BOS, *encode("user:")]
TAIL = encode("assistant:")


def question_tokens(question: str) -> list[int]:
    """What follows the image: the question, then the cue to answer."""
    return encode(question) + TAIL


def answer_tokens(answer: str) -> list[int]:
    """What the model has to produce: the answer and the end of the sequence."""
    return [*encode(answer), EOS]
