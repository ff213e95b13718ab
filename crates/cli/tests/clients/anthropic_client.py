"""Anthropic's own Python client against a server of ours: `anthropic_client.py URL KEY`."""

import sys

import anthropic

url, key = sys.argv[1:]
client = anthropic.Anthropic(base_url=url, api_key=key, max_retries=0)
HELLO = [{"role": "user", "content": "Hello"}]
# The client has no argument for the first any more, and never had one for the second.
GREEDY = {"temperature": 0, "ignore_eos": True}


def ask(**options):
    options = {"max_tokens": 8, "messages": HELLO, "extra_body": GREEDY} | options
    return client.messages.create(model="llama", **options)


whole = ask(system="Be brief.")
assert whole.role == "assistant" and whole.content[0].type == "text" and whole.stop_reason == "max_tokens"
assert whole.usage.output_tokens == 8 and whole.usage.input_tokens + whole.usage.cache_read_input_tokens > 0
text = whole.content[0].text
with client.messages.stream(
    model="llama", max_tokens=8, system="Be brief.", messages=HELLO, extra_body=GREEDY
) as stream:
    assert "".join(stream.text_stream) == text
    final = stream.get_final_message()
assert final.stop_reason == "max_tokens" and final.usage.output_tokens == 8 and final.content[0].text == text

stop = text[2:4]
stopped = ask(system="Be brief.", stop_sequences=[stop])
assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", stop)
assert stopped.content[0].text == text.split(stop)[0]
counted = client.messages.count_tokens(model="llama", system="Be brief.", messages=HELLO).input_tokens
assert counted == whole.usage.input_tokens + whole.usage.cache_read_input_tokens

# A call that is demanded comes, and is as its schema says.
tool = {
    "name": "set_lamp",
    "description": "Switches the lamp.",
    "input_schema": {
        "type": "object",
        "properties": {"state": {"enum": ["on", "off"]}},
        "required": ["state"],
        "additionalProperties": False,
    },
}
called = ask(tools=[tool], tool_choice={"type": "tool", "name": "set_lamp"}, max_tokens=100, extra_body={})
use = called.content[0]
assert called.stop_reason == "tool_use" and use.name == "set_lamp" and use.input["state"] in ("on", "off")
history = HELLO + [
    {"role": "assistant", "content": [{"type": "tool_use", "id": use.id, "name": use.name, "input": use.input}]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "done"}]},
]
assert ask(tools=[tool], messages=history).content
with client.messages.stream(
    model="llama", max_tokens=100, messages=HELLO, tools=[tool], tool_choice={"type": "any"}
) as stream:
    use = stream.get_final_message().content[0]
assert use.type == "tool_use" and use.input["state"] in ("on", "off")

for error, call in [
    (anthropic.BadRequestError, lambda: ask(messages=[{"role": "nobody", "content": "x"}])),
    (anthropic.BadRequestError, lambda: ask(tool_choice={"type": "any"})),
    (anthropic.NotFoundError, lambda: client.messages.create(model="claude", max_tokens=1, messages=HELLO)),
    (anthropic.AuthenticationError, lambda: client.with_options(api_key="ew-wrong").messages.create(
        model="llama", max_tokens=1, messages=HELLO)),
]:
    try:
        call()
    except error as caught:
        assert caught.body["type"] == "error", caught.body
    else:
        raise AssertionError(f"{error} was not raised")
print("all is well")
