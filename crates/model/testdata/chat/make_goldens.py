"""Renders conversations with Hugging Face transformers and writes what comes out to goldens.json.

    python make_goldens.py [smollm2.gguf]

needs transformers and jinja2, and gguf if the model's own template is to be rendered too. The versions used are noted
in the file.
"""

import datetime
import json
import pathlib
import sys

import jinja2
import transformers
from transformers.utils import chat_template_utils

HERE = pathlib.Path(__file__).parent
BUILTIN = HERE.parent.parent / "src" / "chat"
NOW_S = 1_709_210_096  # Thursday 2024-02-29 12:34:56


class FixedDatetime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW_S, datetime.timezone.utc)


chat_template_utils.datetime = FixedDatetime

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place, in °C & \"plain\" words <now>.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City, 城市"},
                "days": {"type": "integer", "default": 1},
            },
            "required": ["place"],
        },
        "return": {"type": "string"},
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "", "parameters": {}}}


def message(role, content, **extra):
    return {"role": role, "content": content, **extra}


def call(name, arguments, id="abcdefghi"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "one": [message("user", "Hello!")],
    "system": [message("system", "  You are terse.\n"), message("user", " What is 2+2? \n")],
    "turns": [
        message("user", "Hi\n\nthere"),
        message("assistant", "  Hello. 你好 👋🏽 "),
        message("user", "<b>Bold</b> & 'quoted' \"twice\""),
    ],
    "thinking": [
        message("user", "Why?"),
        message("assistant", "<think>\nLet me see.\n</think>\n\nBecause."),
        message("user", "And?"),
        message("assistant", "<think>\nHm.\n</think>\n\nSo.", reasoning_content="\nHm, hm.\n"),
    ],
    "tool": [
        message("system", "Use tools."),
        message("user", "Weather in Ulm?"),
        message("assistant", "", tool_calls=[call("get_weather", {"place": "Ulm", "days": 2})]),
        message("tool", "12 °C", tool_call_id="abcdefghi", name="get_weather"),
        message("assistant", "It is 12 °C."),
        message("user", "And now?"),
    ],
    "two_calls": [
        message("user", "Weather and time?"),
        message("assistant", "Let me look.", tool_calls=[call("get_weather", {"place": "城"}), call("clock", {})]),
        message("tool", "rain", tool_call_id="abcdefghi"),
        message("tool", "noon", tool_call_id="abcdefghi"),
    ],
    "out_of_turn": [message("user", "One"), message("user", "Two")],
    "empty_content": [message("user", "")],
}


def templates(gguf_path):
    for path in sorted(HERE.glob("*.jinja")):
        yield path.stem, path.read_text()
    for path in sorted(BUILTIN.glob("*.jinja")):
        yield "builtin:" + path.stem, path.read_text()
    if gguf_path:
        import gguf

        field = gguf.GGUFReader(gguf_path).fields["tokenizer.chat_template"]
        yield "gguf:smollm2", field.contents()


def main():
    cases = []
    for name, source in templates(sys.argv[1] if len(sys.argv) > 1 else None):
        for conversation, messages in CONVERSATIONS.items():
            variants = [(None, True, {}), (None, False, {})]
            if conversation in ("tool", "two_calls", "one"):
                variants.append(([WEATHER, CLOCK], True, {}))
            if name == "qwen3":
                variants.append((None, True, {"enable_thinking": False}))
            for tools, add_generation_prompt, variables in variants:
                case = {
                    "template": name,
                    "conversation": conversation,
                    "tools": tools is not None,
                    "add_generation_prompt": add_generation_prompt,
                    "variables": variables,
                }
                try:
                    rendered, _ = chat_template_utils.render_jinja_template(
                        [messages],
                        tools=tools,
                        chat_template=source,
                        add_generation_prompt=add_generation_prompt,
                        bos_token="<s>",
                        eos_token="</s>",
                        **variables,
                    )
                    case["text"] = rendered[0]
                except jinja2.TemplateError as error:
                    case["refused"] = str(error)
                cases.append(case)
    goldens = {
        "made_by": f"make_goldens.py, transformers {transformers.__version__}, jinja2 {jinja2.__version__}",
        "now_s": NOW_S,
        "tools": [WEATHER, CLOCK],
        "conversations": CONVERSATIONS,
        "cases": cases,
    }
    (HERE / "goldens.json").write_text(json.dumps(goldens, ensure_ascii=False, indent=1) + "\n")
    print(len(cases), "cases")


main()
