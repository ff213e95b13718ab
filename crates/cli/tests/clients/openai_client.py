"""OpenAI's own Python client against a server of ours: `openai_client.py URL KEY`.

Every endpoint and option that OpenAI's API has and we serve, on a model whose words mean nothing: what is checked is
that the client understands the answers, and that options do what they say.
"""

import json
import sys

import openai

url, key = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)
HELLO = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def chat(**options):
    options = {"temperature": 0, "max_tokens": 8, "extra_body": {"ignore_eos": True}} | options
    return client.chat.completions.create(model="llama", messages=HELLO, **options)


def refused(error, param, call):
    try:
        call()
    except error as caught:
        assert caught.param == param, caught
        return
    raise AssertionError(f"{param} was not refused")


models = client.models.list().data
assert [model.id for model in models] == ["llama"]
assert client.models.retrieve("llama").owned_by == "edgeward"

# Whole and in pieces, the same.
whole = chat(n=2, logprobs=True, top_logprobs=3)
assert len(whole.choices) == 2 and whole.choices[0].finish_reason == "length"
assert whole.usage.completion_tokens == 16 and whole.usage.total_tokens == 16 + whole.usage.prompt_tokens
first = whole.choices[0].logprobs.content[0]
assert len(whole.choices[0].logprobs.content) == 8 and len(first.top_logprobs) == 3
assert first.logprob == first.top_logprobs[0].logprob and bytes(first.bytes).decode(errors="replace") == first.token
text, usage, finish = "", None, None
for chunk in chat(stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        finish = choice.finish_reason or finish
assert text == whole.choices[0].message.content and finish == "length"
assert usage.completion_tokens == 8 and usage.prompt_tokens_details.cached_tokens > 0
with client.chat.completions.stream(model="llama", messages=HELLO, max_tokens=4) as events:
    assert any(event.type == "content.done" for event in events)

# Options.
assert chat(seed=1, temperature=2, top_p=0.9).choices == chat(seed=1, temperature=2, top_p=0.9).choices
stop = text[3:5]
stopped = chat(stop=stop).choices[0]
assert stopped.message.content == text.split(stop)[0] and stopped.finish_reason == "stop"
assert chat(frequency_penalty=2, presence_penalty=2, max_completion_tokens=3).usage.completion_tokens == 3

# Structured output.
schema = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}, "count": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
answer = chat(
    response_format={"type": "json_schema", "json_schema": {"name": "thing", "schema": schema, "strict": True}},
    max_tokens=100,
)
thing = json.loads(answer.choices[0].message.content)
assert thing["colour"] in ("red", "green") and 0 <= thing["count"] <= 9 and answer.choices[0].finish_reason == "stop"
assert chat(response_format={"type": "json_object"}).choices[0].message.content.startswith("{")

# Tools.
lamp = {"type": "function", "function": {"name": "set_lamp", "parameters": {
    "type": "object", "properties": {"state": {"enum": ["on", "off"]}}, "required": ["state"],
    "additionalProperties": False}}}
called = chat(tools=[lamp], tool_choice="required", max_tokens=100).choices[0]
call = called.message.tool_calls[0]
assert called.finish_reason == "tool_calls" and json.loads(call.function.arguments)["state"] in ("on", "off")
after = client.chat.completions.create(
    model="llama", max_tokens=4, tools=[lamp],
    messages=HELLO + [called.message, {"role": "tool", "tool_call_id": call.id, "content": "done"}],
)
assert after.choices[0].message.role == "assistant"

# Responses.
response = client.responses.create(model="llama", instructions="Be brief.", input="Hello", max_output_tokens=8,
                                   temperature=0, extra_body={"ignore_eos": True})
assert response.output_text == text and response.status == "incomplete" and response.usage.output_tokens == 8
with client.responses.stream(model="llama", instructions="Be brief.", input="Hello", max_output_tokens=8,
                             temperature=0, extra_body={"ignore_eos": True}) as events:
    kinds = [event.type for event in events]
assert kinds[0] == "response.created" and kinds[-1] == "response.incomplete", kinds
lamp_flat = {"type": "function"} | lamp["function"]
response = client.responses.create(model="llama", input="Hello", tools=[lamp_flat], tool_choice="required")
assert response.output[0].type == "function_call" and "state" in json.loads(response.output[0].arguments)

# Embeddings; the client asks for base64 by itself.
vectors = client.embeddings.create(model="llama", input=["one", "two"]).data
plain = client.embeddings.create(model="llama", input="one", encoding_format="float").data
assert len(vectors) == 2 and max(abs(a - b) for a, b in zip(vectors[0].embedding, plain[0].embedding)) < 1e-6

# Text without turns.
completion = client.completions.create(
    model="llama", prompt=["one", "two"], max_tokens=5, temperature=0, logprobs=2, extra_body={"ignore_eos": True}
)
assert len(completion.choices) == 2 and completion.usage.completion_tokens == 10
assert len(completion.choices[1].logprobs.tokens) == 5 and completion.choices[1].logprobs.text_offset[0] == 0
pieces = client.completions.create(model="llama", prompt="one", max_tokens=5, temperature=0, stream=True,
                                   extra_body={"ignore_eos": True})
assert "".join(piece.choices[0].text for piece in pieces) == completion.choices[0].text
echoed = client.completions.create(model="llama", prompt="one", max_tokens=1, echo=True)
assert echoed.choices[0].text.startswith("one")

# Errors are the client's own, and name the field.
refused(openai.BadRequestError, "temperature", lambda: chat(temperature=-1))
refused(openai.BadRequestError, "messages[0].role",
        lambda: client.chat.completions.create(model="llama", messages=[{"role": "nobody", "content": "x"}]))
refused(openai.NotFoundError, "model", lambda: client.chat.completions.create(model="gpt-5", messages=HELLO))
refused(openai.AuthenticationError, None, lambda: client.with_options(api_key="ew-wrong").models.list())
print("all is well")
