"""The page in a real Chromium: `page.py URL CHROMIUM [--screenshots DIR]`.

It uses the page as visitors do, with keyboard and pointer, and checks what they see: that an answer grows and can be
stopped, that the monitor moves, that chats outlive a reload, both languages, both colours, a narrow screen, errors.
All along, nothing may be asked of anyone but the server, and nothing may be written to the console. What the eye does
not see is checked by axe, a checker of accessibility (WCAG 2.2, levels A and AA).

With `--screenshots` it takes the pictures of the documentation instead.
"""

import argparse
import json
import re
import urllib.request

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect, sync_playwright

TIMEOUT_MS = 60_000
AXE = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script> [x](javascript:alert(3)) ![y](https://example.org/y.png)'

# Markdown, and what it must become. `…` stands for the bar above code.
MARKDOWN = [
    ("plain", "<p>plain</p>"),
    ("a\nb\n\nc", "<p>a<br>b</p><p>c</p>"),
    ("# A\n###### B ##", "<h3>A</h3><h6>B</h6>"),
    ("a **b *c* d** `e*f*` ~~g~~", "<p>a <strong>b <em>c</em> d</strong> <code>e*f*</code> <del>g</del></p>"),
    ("snake_case_name and 2 * 3 * 4 and **open", "<p>snake_case_name and 2 * 3 * 4 and **open</p>"),
    ("\\*no\\* \\<b>", "<p>*no* &lt;b&gt;</p>"),
    ("- a\n- b\n  - c\n\n1) x\n2) y", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><ol><li>x</li><li>y</li></ol>"),
    ("3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'),
    ("> a\n> > b", "<blockquote><p>a</p><blockquote><p>b</p></blockquote></blockquote>"),
    ("---", "<hr>"),
    ("|a|b|\n|-|-|\n|1|`2`|", '<div class="table" tabindex="0"><table><thead><tr><th scope="col">a</th><th scope="col">b</th>'
     "</tr></thead><tbody><tr><td>1</td><td><code>2</code></td></tr></tbody></table></div>"),
    ("```js\nlet a = 1; // <b>\n```", '…<pre tabindex="0"><code><span class="code-word">let</span> a = <span class="code-number">1</span>; '
     '<span class="code-comment">// &lt;b&gt;</span></code></pre>'),
    ("```\nnot closed", '…<pre tabindex="0"><code>not closed</code></pre>'),
    ("[a](https://b.c/d_(e)) https://f.g.", '<p><a href="https://b.c/d_(e)" rel="noopener noreferrer" target="_blank">a</a> '
     '<a href="https://f.g" rel="noopener noreferrer" target="_blank">https://f.g</a>.</p>'),
    (HOSTILE, '<p>&lt;img src=x onerror="alert(1)"&gt;&lt;script&gt;alert(2)&lt;/script&gt; <span>x</span> <em>y</em></p>'),
    ("[a](javascript:x)", "<p><span>a</span></p>"),
    ("[a](data:text/html,x) [b](//c.d)", "<p><span>a</span> <span>b</span></p>"),
]


class Visitor:
    """A page of a browser of its own, and all that it says and asks."""

    def __init__(self, browser, url, **options):
        self.url = url
        self.said = []
        self.context = browser.new_context(**({"locale": "en-US", "viewport": {"width": 1280, "height": 800}} | options))
        self.context.set_default_timeout(TIMEOUT_MS)
        self.page = self.context.new_page()
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.page.on("dialog", lambda dialog: self.said.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.said.append(f"request: {request.url}") if not request.url.startswith(url) else None)
        self.page.goto(url)
        expect(self.page.locator("#model option")).not_to_have_count(0)

    def __getitem__(self, selector):
        return self.page.locator(selector)

    def ask(self, text):
        self["#prompt"].fill(text)
        self.page.keyboard.press("Enter")

    def set_length(self, n_tokens):
        """From now on answers have exactly so many tokens, whatever the model would say."""

        def lengthened(route):
            body = route.request.post_data_json | {"ignore_eos": True, "max_tokens": n_tokens}
            route.continue_(post_data=json.dumps(body))

        self.page.route("**/v1/chat/completions", lengthened)

    def answered(self):
        """The text of the last answer, once it is whole."""
        expect(self["#send"]).to_be_visible(timeout=TIMEOUT_MS)
        return self["article.assistant .body"].last.inner_text()

    def check_accessibility(self, where):
        violations = Axe().run(self.page, options=AXE).response["violations"]
        found = [f"{rule['id']}: {node['html']} {node['failureSummary']}" for rule in violations for node in rule["nodes"]]
        assert not found, f"{where}: " + "\n".join(found)

    def end(self):
        # Advice that browsers give is no error; it changes from version to version.
        wrong = [line for line in self.said if not line.startswith("verbose:")]
        assert not wrong, wrong
        self.context.close()


def metric(url, name):
    with urllib.request.urlopen(f"{url}/metrics") as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if re.match(rf"edgeward_{name}[ {{]", line))


def chats(browser, url):
    """An answer grows; it can be stopped, made anew, read again after a reload, and deleted."""
    visitor = Visitor(browser, url)
    expect(visitor["#empty h2"]).to_have_text("What would you like to know?")
    expect(visitor["#prompt"]).to_be_focused()
    visitor.check_accessibility("empty chat")
    visitor.page.evaluate("""() => {
        window.lengths = new Set();
        const look = () => window.lengths.add(document.querySelector('article.growing .body')?.textContent.length ?? 0);
        new MutationObserver(look).observe(document.getElementById('messages'), { childList: true, subtree: true });
    }""")
    visitor.set_length(60)
    visitor.ask("Tell me a story about a river.")
    expect(visitor["#stop"]).to_be_visible()
    text = visitor.answered()
    assert len(text) > 40, text
    assert len(visitor.page.evaluate("[...window.lengths]")) >= 5, "the answer grows piece by piece"
    expect(visitor["article .message-tools"].last).to_contain_text(re.compile(r"60 tokens · \d+ tokens/s · first after \d"))
    expect(visitor["#said"]).to_contain_text(text[:20])

    visitor.set_length(4000)
    for stop in [lambda: visitor.page.keyboard.press("Escape"), lambda: visitor["#stop"].click()]:
        visitor.ask("And then?")
        expect(visitor["article.growing .body"]).to_contain_text(re.compile(r"\w{3}"))
        stop()
        visitor.answered()
        expect(visitor["article"].last).to_contain_text("Stopped")
        for _ in range(100):
            if metric(url, "requests_active") == 0:
                break
            visitor.page.wait_for_timeout(100)
        assert metric(url, "requests_active") == 0, "the server has stopped, too"
    expect(visitor["#prompt"]).to_be_focused()

    n_articles = visitor["article"].count()
    visitor["article"].last.get_by_role("button", name="Answer again").click()
    expect(visitor["#stop"]).to_be_visible()
    visitor.page.keyboard.press("Escape")
    visitor.answered()
    assert visitor["article"].count() == n_articles, "the answer is replaced"
    visitor.check_accessibility("chat")

    visitor.page.reload()
    visitor["#chats li button"].first.click()
    assert visitor["article"].count() == n_articles
    assert visitor["article.assistant .body"].first.inner_text() == text
    visitor["#chats li"].first.hover()
    visitor["#chats .remove"].first.click()
    expect(visitor["#chats li"]).to_have_count(0)
    expect(visitor["#empty"]).to_be_visible()
    visitor.end()


def settings(browser, url):
    """By keyboard alone: settings are found, changed, kept and obeyed."""
    visitor = Visitor(browser, url)
    visitor["#open-settings"].focus()
    visitor.page.keyboard.press("Enter")
    expect(visitor["#settings"]).to_be_visible()
    visitor.check_accessibility("settings")
    visitor["#temperature"].focus()
    for _ in range(20):
        visitor.page.keyboard.press("ArrowLeft")
    expect(visitor["output[for=temperature]"]).to_have_text("0")
    visitor["#max_tokens"].fill("6")
    visitor["#system"].fill("Answer with a list of numbers.")
    visitor.page.keyboard.press("Escape")
    expect(visitor["#settings"]).to_be_hidden()
    visitor.page.reload()
    with visitor.page.expect_request("**/v1/chat/completions") as sent:
        visitor.ask("Count to fifty.")
    body = sent.value.post_data_json
    assert (body["temperature"], body["max_tokens"], body["messages"][0]["role"]) == (0, 6, "system"), body
    assert "seed" not in body, body
    visitor.answered()
    expect(visitor["article"].last).to_contain_text("6 tokens")
    expect(visitor["article"].last).to_contain_text("Cut off")
    visitor["#open-settings"].click()
    visitor["#reset"].click()
    expect(visitor["output[for=temperature]"]).to_have_text("0.8")
    expect(visitor["#system"]).to_have_value("")
    visitor.end()


def texts_are_texts(browser, url):
    """Markdown becomes what it should; nothing that a model says becomes markup."""
    visitor = Visitor(browser, url)
    for text, wanted in MARKDOWN:
        html = visitor.page.evaluate("""async (text) => {
            const { markdown } = await import('/page/markdown.js');
            const div = document.createElement('div');
            div.append(...markdown(text));
            return div.innerHTML;
        }""", text)
        html = re.sub(r'<div class="code"><div class="code-bar">.*?</div>(.*?)</div>', r"…\1", html)
        assert html == wanted, f"{text!r}\n{html}\n{wanted}"
    # No text may take long, or exhaust the stack.
    for text in ["*" * 5000, "> " * 5000, "[" * 5000, "_a " * 3000, "- " * 3000, "`" * 4999, "|" * 5000, "**a " * 2000]:
        took_ms = visitor.page.evaluate("""async (text) => {
            const { markdown } = await import('/page/markdown.js');
            const start = performance.now();
            markdown(text);
            return performance.now() - start;
        }""", text)
        assert took_ms < 2000, f"{text[:10]!r}: {took_ms} ms"
    hostile = [{"id": "1", "messages": [{"role": "user", "content": HOSTILE}, {"role": "assistant", "content": f"{HOSTILE}\n\n```{HOSTILE}\n{HOSTILE}"}]}]
    visitor.page.evaluate("chats => localStorage.setItem('edgeward.chats', JSON.stringify(chats))", hostile)
    visitor.page.reload()
    visitor["#chats li button"].first.click()
    expect(visitor["article"]).to_have_count(2)
    assert visitor["#messages img, #messages script, #messages a"].count() == 0
    visitor.page.evaluate("() => localStorage.setItem('edgeward.chats', JSON.stringify([1, { messages: [{}] }, null]))")
    visitor.page.reload()
    expect(visitor["#empty"]).to_be_visible()
    expect(visitor["#chats li"]).to_have_count(0)
    names = visitor.page.evaluate("import('/page/words.js').then((words) => words.names())")
    assert names["en"] == names["zh"], "every word is in both languages"
    visitor.end()


def monitor(browser, url):
    """The monitor moves when the server works."""
    visitor = Visitor(browser, url)
    visitor["#tab-chat"].focus()
    visitor.page.keyboard.press("ArrowRight")
    expect(visitor["#tab-monitor"]).to_be_focused()
    expect(visitor["#pulse"]).to_have_text("Live, every second")
    expect(visitor["#models li"]).to_contain_text("tokens of context")
    rate = visitor["#chart-rate"]
    expect(rate.locator(".now")).to_have_text("0")
    before = rate.locator(".line").get_attribute("d")
    body = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 60, "ignore_eos": True}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    urllib.request.urlopen(request).read()
    expect(visitor["#chart-ttft .now"]).to_have_text(re.compile(r"\d+ m?s"))
    expect(rate.locator("svg")).to_have_attribute("aria-label", re.compile(r"from 0 to [1-9]"))
    assert rate.locator(".line").get_attribute("d") != before
    expect(visitor["#chart-memory .now"]).to_have_text(re.compile(r"[1-9]\d* MiB|GiB"))
    rate.locator("svg").hover(position={"x": rate.locator("svg").bounding_box()["width"] - 1, "y": 20})
    expect(rate.locator("small")).to_contain_text("s ago")
    visitor.check_accessibility("monitor")
    visitor.end()


def languages_and_colours(browser, url):
    """Chinese to those whose browser is Chinese, dark to those whose system is; both can be switched and stay."""
    visitor = Visitor(browser, url, locale="zh-CN", color_scheme="dark")
    expect(visitor["html"]).to_have_attribute("lang", "zh-CN")
    expect(visitor["#empty h2"]).to_have_text("想聊点什么？")
    dark = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    visitor.check_accessibility("dark")
    visitor.set_length(30)
    visitor.ask("你好！请用一句话介绍你自己。")
    visitor.answered()
    expect(visitor["article.user"]).to_have_text("你好！请用一句话介绍你自己。")
    expect(visitor["article .message-tools"]).to_contain_text("重新回答")
    visitor.check_accessibility("dark chat")
    visitor["#tab-monitor"].click()
    expect(visitor["#pulse"]).to_have_text("实时，每秒更新")
    visitor.check_accessibility("dark monitor")
    texts = visitor.page.evaluate("[...document.querySelectorAll('[data-text]')].map((node) => node.textContent)")
    assert all(re.search(r"[\u4e00-\u9fff]", text) for text in texts), texts
    visitor["#language"].click()
    expect(visitor["#tab-chat"]).to_have_text("Chat")
    for _ in range(2):
        visitor["#theme"].click()
    visitor.page.reload()
    expect(visitor["#tab-chat"]).to_have_text("Chat")
    assert visitor.page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert visitor.page.evaluate("getComputedStyle(document.body).backgroundColor") == dark
    visitor.end()


def narrow_screens(browser, url):
    """On a phone nothing is cut off, and the side slides in and out."""
    visitor = Visitor(browser, url, viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True)
    for tab in ["#tab-monitor", "#tab-chat"]:
        visitor[tab].tap()
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 360
    visitor.check_accessibility("narrow")
    expect(visitor["#new-chat"]).to_be_hidden()
    visitor["#open-side"].tap()
    expect(visitor["#close-side"]).to_be_focused()
    expect(visitor["#new-chat"]).to_be_visible()
    visitor.page.keyboard.press("Escape")
    expect(visitor["#new-chat"]).to_be_hidden()
    expect(visitor["#open-side"]).to_be_focused()
    visitor.end()


def errors(browser, url):
    """What goes wrong is said, and can be tried again."""
    visitor = Visitor(browser, url)
    refusal = {"status": 429, "json": {"error": {"message": "too many requests are waiting: try again a little later"}}}
    visitor.page.route("**/v1/chat/completions", lambda route: route.fulfill(**refusal))
    visitor.ask("Hello")
    expect(visitor["article .trouble"]).to_contain_text("too many requests are waiting")
    visitor.page.route("**/v1/chat/completions", lambda route: route.abort())
    visitor["article"].last.get_by_role("button", name="Try again").click()
    expect(visitor["article .trouble"]).to_contain_text("The server cannot be reached")
    visitor.check_accessibility("error")
    visitor.page.unroute("**/v1/chat/completions")
    visitor["article"].last.get_by_role("button", name="Try again").click()
    assert visitor.answered()
    expect(visitor["article"]).to_have_count(2)
    visitor.page.route("**/metrics", lambda route: route.fulfill(status=403, json={"error": {"message": "this key is not good for this"}}))
    visitor["#tab-monitor"].click()
    expect(visitor["#monitor-trouble"]).to_contain_text("this key is not good for this")
    expect(visitor["#pulse"]).to_have_text("No connection")
    visitor.page.unroute("**/metrics")
    expect(visitor["#pulse"]).to_have_text("Live, every second")
    # The browser itself writes down requests that fail, and these were meant to.
    visitor.said = [line for line in visitor.said if "Failed to load resource" not in line]
    visitor.end()


def screenshots(browser, url, folder):
    """The pictures of the documentation."""

    def take(name, question, view="chat", **options):
        visitor = Visitor(browser, url, **options)
        visitor["#open-settings"].dispatch_event("click")
        visitor["#temperature"].fill("0")
        visitor.page.keyboard.press("Escape")
        if question:
            visitor.ask(question)
        if view == "monitor":
            visitor["#tab-monitor"].click()
            for _ in range(6):
                body = {"messages": [{"role": "user", "content": question}], "max_tokens": 200, "ignore_eos": True}
                request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
                urllib.request.urlopen(request).read()
                visitor.page.wait_for_timeout(3000)
        expect(visitor["#stop"]).to_be_hidden(timeout=TIMEOUT_MS)
        visitor["#scroll"].evaluate("node => node.scrollTop = 0")
        visitor.page.wait_for_timeout(300)
        visitor.page.screenshot(path=f"{folder}/{name}.png")
        visitor.end()

    take("page-chat", "Write a Python function that finds the median of a list, and explain it.")
    take("page-chat-zh", None, locale="zh-CN", color_scheme="dark")
    take("page-monitor", "Tell me a story about a river.", view="monitor")
    take("page-phone", "Plan a quiet Sunday in a small town", viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("chromium")
    parser.add_argument("--screenshots")
    args = parser.parse_args()
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        # Its sandbox cannot be had by root or in most containers, and it sees only our own page.
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        if args.screenshots:
            screenshots(browser, args.url, args.screenshots)
        else:
            for check in [chats, settings, texts_are_texts, monitor, languages_and_colours, narrow_screens, errors]:
                check(browser, args.url)
                print(check.__name__, "ok", flush=True)
        browser.close()
    print("all is well")


main()
