//! The page: a chat and a monitor, out of the binary.
//!
//! Its files hold nothing secret, and it asks for a key itself where one is needed, so everybody may have them. Its
//! policy (Content Security Policy, level 3) lets it load from and talk to this server only, keeps others from framing
//! it, and turns off the ways by which text becomes markup (trusted types): what a model says can never be script.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use axum::response::Response;

use super::with_type;

/// Path, type and content.
const FILES: [(&str, &str, &str); 11] = [
    ("/", HTML, include_str!("../page/index.html")),
    ("/page/page.css", "text/css; charset=utf-8", include_str!("../page/page.css")),
    ("/page/icon.svg", "image/svg+xml", include_str!("../page/icon.svg")),
    ("/page/main.js", SCRIPT, include_str!("../page/main.js")),
    ("/page/chat.js", SCRIPT, include_str!("../page/chat.js")),
    ("/page/dom.js", SCRIPT, include_str!("../page/dom.js")),
    ("/page/highlight.js", SCRIPT, include_str!("../page/highlight.js")),
    ("/page/markdown.js", SCRIPT, include_str!("../page/markdown.js")),
    ("/page/monitor.js", SCRIPT, include_str!("../page/monitor.js")),
    ("/page/settings.js", SCRIPT, include_str!("../page/settings.js")),
    ("/page/words.js", SCRIPT, include_str!("../page/words.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

const HEADERS: [(&str, &str); 4] = [
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
         trusted-types 'none'",
    ),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
];

/// Whether a path is part of the page.
pub fn is_page(path: &str) -> bool {
    paths().any(|known| known == path)
}

/// Paths of all its files.
pub fn paths() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(path, ..)| *path)
}

/// `GET` of one of them.
pub async fn file(uri: Uri) -> Response {
    let found = FILES.iter().find(|(path, ..)| *path == uri.path());
    let (_, content_type, content) = found.expect("only these paths are routed here");
    let mut response = with_type(Body::from(*content), content_type);
    let headers: &mut HeaderMap = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_comes_from_elsewhere() {
        for (path, _, content) in FILES {
            // The name of SVG's elements and the beginnings of links in answers are no requests.
            let content = content.replace("http://www.w3.org/2000/svg", "");
            assert!(!content.contains("http://") && !content.contains("https://"), "{path}");
            assert!(!content.contains("url(") && !content.contains("@import"), "{path}");
            assert!(!content.contains("innerHTML") && !content.contains(" style="), "{path}");
        }
    }

    #[test]
    fn scripts_import_only_what_is_there() {
        for (path, _, content) in FILES.iter().filter(|(_, content_type, _)| *content_type == SCRIPT) {
            for rest in content.split("from \"./").skip(1) {
                let name = rest.split('"').next().unwrap_or_default();
                assert!(is_page(&format!("/page/{name}")), "{path} imports {name}");
            }
        }
    }
}
