"""The OpenAPI document of a server of ours, by the specification's own validator: `openapi_document.py URL KEY`.

Besides, every endpoint in it is asked for by its method: none may be unknown, and each must want the fields that are said to
be needed.
"""

import json
import sys
import urllib.error
import urllib.request

from openapi_spec_validator import OpenAPIV31SpecValidator, validate

url, key = sys.argv[1:]


def ask(method, path, body=None):
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(url + path, body, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.headers["content-type"], answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read()


status, kind, text = ask("GET", "/openapi.json")
assert (status, kind) == (200, "application/json"), (status, kind)
document = json.loads(text)
assert document["openapi"].startswith("3.1."), document["openapi"]
validate(document, cls=OpenAPIV31SpecValidator)

wanted = """/v1/chat/completions /v1/completions /v1/responses /v1/embeddings /v1/rerank /v1/messages /v1/models /v1/models/{name}
    /api/chat /api/generate /api/embed /api/tags /api/show /api/version /tokenize /detokenize /health /ready /metrics /openapi.json
    / /v1/messages/count_tokens""".split()
missing = set(wanted) - set(document["paths"])
assert not missing, missing

for path, item in document["paths"].items():
    for method, operation in item.items():
        needed = []
        if "requestBody" in operation:
            needed = operation["requestBody"]["content"]["application/json"]["schema"].get("required", [])
        # Nothing is given: what is needed is missed, and nothing else is wrong.
        status, kind, text = ask(method.upper(), path.replace("{name}", "llama"), b"{}" if method == "post" else None)
        if needed:
            assert status == 400, (path, status, text)
            message = json.loads(text)["error"]
            message = message if isinstance(message, str) else message["message"]
            assert any(field in text.decode() for field in needed), (path, needed, text)
        else:
            assert status == 200, (path, status, text)
    assert ask("DELETE", path.replace("{name}", "llama"))[0] == 405, path

print("all is well")
