//! Bytes over HTTP into a [`PartFile`]: resumed after an interruption, bounded in length, never waited for without end.
//!
//! `hf-hub`'s own downloader is not used: it has no time limits, appends the whole file to a part when a server
//! ignores the range, and knows neither the length nor the checksum that must come out.
//!
//! Redirects are followed here rather than by the client, because Hugging Face tells a file's checksum
//! (`x-linked-etag`) and size on the redirecting answer: another file is refused before a byte of it is fetched.

use std::io;
use std::time::Duration;

use ureq::http::{HeaderMap, Response, StatusCode, Uri, header};
use ureq::{Agent, Body};

use super::digest::Digest;
use super::error::StoreError;
use super::part::{Copied, PartFile};
use super::progress::Progress;

/// Name resolution and connecting each get this long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A server silent for this long is taken for dead.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Hugging Face needs one or two redirects.
const MAX_REDIRECTS: usize = 5;
/// Attempts in a row that bring not a single byte before the source is given up.
const MAX_BARREN_ATTEMPTS: u32 = 4;
/// Pause after the first barren attempt; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest JSON answer. The list of a repository with ten thousand files has about 3 MB.
const MAX_JSON_BYTES: u64 = 16 << 20;

/// A secret that opens gated repositories. Has no `Debug`, so that it cannot slip into a log.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// From a token as the user has it; `None` if it is blank or no header could carry it.
    pub fn new(text: &str) -> Option<Token> {
        let text = text.trim();
        let is_sendable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_sendable.then(|| Token(text.to_owned()))
    }
}

/// An HTTP client.
pub struct Http {
    agent: Agent,
    token: Option<Token>,
}

impl Http {
    /// A client that shows `token` to the server it is pointed at, and to no server it is redirected to.
    pub fn new(token: Option<Token>) -> Http {
        let agent = Agent::config_builder()
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("edgeward/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Http { agent, token }
    }

    /// The JSON document at `url`.
    pub fn get_json<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T, StoreError> {
        let mut answer = self.get(url, None, |_| Ok(()))?;
        if answer.status() != StatusCode::OK {
            return Err(StoreError::Status { url: url.to_owned(), status: answer.status().as_u16() });
        }
        let body = answer
            .body_mut()
            .with_config()
            .limit(MAX_JSON_BYTES)
            .read_to_vec()
            .map_err(|source| network(url, source))?;
        serde_json::from_slice(&body)
            .map_err(|error| response(url, format!("it is not the JSON expected ({error})")))
    }

    /// Fetches the rest of `part` from `url`. When this returns `Ok`, the part has its full length.
    pub fn fetch(
        &self,
        url: &str,
        part: &mut PartFile<'_>,
        progress: &mut Progress,
    ) -> Result<(), StoreError> {
        let mut n_barren = 0;
        let mut has_answered = false;
        while part.len() < part.wanted().size_bytes {
            let len_before = part.len();
            let outcome = self.ask(url, part, progress).and_then(|mut answer| {
                has_answered = true;
                match part.append_all(&mut answer.body_mut().as_reader(), progress)? {
                    Copied::All if part.len() == part.wanted().size_bytes => Ok(()),
                    Copied::All => Err(network(url, io::Error::from(io::ErrorKind::UnexpectedEof).into())),
                    Copied::SourceFailed(error) => Err(network(url, error.into())),
                }
            });
            let Err(error) = outcome else { return Ok(()) };
            n_barren = if part.len() > len_before { 0 } else { n_barren + 1 };
            if !may_pass(&error, has_answered) || n_barren == MAX_BARREN_ATTEMPTS {
                return Err(error);
            }
            if n_barren > 0 {
                std::thread::sleep(FIRST_PAUSE * 2u32.pow(n_barren - 1));
            }
        }
        Ok(())
    }

    /// Asks for all that is missing. The answer's body goes on where the part ends, perhaps at its start.
    fn ask(
        &self,
        url: &str,
        part: &mut PartFile<'_>,
        progress: &Progress,
    ) -> Result<Response<Body>, StoreError> {
        let wanted = part.wanted();
        let answer = self.get(url, Some(part.len()), |headers| {
            if let Some(size_bytes) = number(headers, "x-linked-size")
                && size_bytes != wanted.size_bytes
            {
                return Err(wanted.wrong_size(size_bytes.to_string()));
            }
            let etag = headers.get("x-linked-etag").and_then(|value| value.to_str().ok());
            match etag.and_then(|etag| Digest::sha256_from_hex(etag.trim_matches('"'))) {
                Some(digest) if matches!(wanted.digest, Digest::Sha256(_)) && digest != wanted.digest => {
                    Err(StoreError::WrongDigest {
                        file: wanted.file.clone(),
                        expected: wanted.digest.to_string(),
                        got: digest.to_string(),
                    })
                }
                _ => Ok(()),
            }
        })?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = content_range(answer.headers())
                    .ok_or_else(|| response(url, "its Content-Range cannot be read".into()))?;
                if range.total_bytes != wanted.size_bytes {
                    return Err(wanted.wrong_size(range.total_bytes.to_string()));
                }
                if range.first_byte_idx != part.len() {
                    return Err(response(url, "it gives another range than asked for".into()));
                }
            }
            // The server ignores ranges: all of it comes again, and what is here makes room.
            StatusCode::OK => {
                if let Some(size_bytes) = number(answer.headers(), header::CONTENT_LENGTH.as_str())
                    && size_bytes != wanted.size_bytes
                {
                    return Err(wanted.wrong_size(size_bytes.to_string()));
                }
                part.restart()?;
                progress.restart();
            }
            status => return Err(StoreError::Status { url: url.to_owned(), status: status.as_u16() }),
        }
        Ok(answer)
    }

    /// Sends a request and follows redirects; `inspect` sees the headers of every answer on the way.
    fn get(
        &self,
        url: &str,
        first_byte_idx: Option<u64>,
        inspect: impl Fn(&HeaderMap) -> Result<(), StoreError>,
    ) -> Result<Response<Body>, StoreError> {
        let origin_of = |url: &Uri| (url.scheme().cloned(), url.authority().cloned());
        let mut at = parse(url)?;
        let origin = origin_of(&at);
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(&at);
            if let Some(idx) = first_byte_idx {
                request = request.header(header::RANGE, format!("bytes={idx}-"));
            }
            if let Some(Token(token)) = &self.token
                && origin_of(&at) == origin
            {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let answer = request.call().map_err(|source| network(url, source))?;
            inspect(answer.headers())?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let location = answer
                .headers()
                .get(header::LOCATION)
                .and_then(|value| value.to_str().ok())
                .ok_or_else(|| response(url, "it redirects to nowhere".into()))?;
            let next = if location.starts_with('/') && !location.starts_with("//") {
                let scheme = at.scheme_str().unwrap_or_default();
                let authority = at.authority().map(|authority| authority.as_str()).unwrap_or_default();
                parse(&format!("{scheme}://{authority}{location}"))?
            } else {
                parse(location)?
            };
            if at.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(response(url, "it redirects from https to http".into()));
            }
            at = next;
        }
        Err(response(url, format!("it redirects more than {MAX_REDIRECTS} times")))
    }
}

/// Whether the same request may succeed a moment later: the server is overloaded, or the connection to a server that
/// did answer broke. One that never answered is rather not reachable from here, and the next source is tried.
fn may_pass(error: &StoreError, has_answered: bool) -> bool {
    match error {
        StoreError::Network { .. } => has_answered,
        StoreError::Status { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
        _ => false,
    }
}

/// `Content-Range: bytes 5-9/10` (RFC 9110, section 14.4).
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first_byte_idx: u64,
    total_bytes: u64,
}

fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    let (range, total) =
        headers.get(header::CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _last) = range.split_once('-')?;
    Some(ContentRange { first_byte_idx: first.parse().ok()?, total_bytes: total.parse().ok()? })
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn parse(url: &str) -> Result<Uri, StoreError> {
    let uri: Uri =
        url.parse().map_err(|error| response(url, format!("the address cannot be read ({error})")))?;
    match uri.scheme_str() {
        Some("http" | "https") if uri.host().is_some() => Ok(uri),
        _ => Err(response(url, "the address is not http or https".into())),
    }
}

fn network(url: &str, source: ureq::Error) -> StoreError {
    StoreError::Network { url: url.to_owned(), source: Box::new(source) }
}

fn response(url: &str, reason: String) -> StoreError {
    StoreError::Response { url: url.to_owned(), reason }
}

/// `segment` as one step of a URL's path: everything but RFC 3986's unreserved characters is escaped.
pub fn escape(segment: &str) -> String {
    let mut escaped = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte))
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        let parse = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            content_range(&headers)
        };
        assert_eq!(parse("bytes 5-9/10"), Some(ContentRange { first_byte_idx: 5, total_bytes: 10 }));
        for text in ["", "bytes", "bytes 5-9", "bytes 5-9/*", "bytes */10", "bytes -1-9/10", "items 5-9/10"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn escapes_what_would_change_the_path() {
        assert_eq!(escape("model-00001-of-00002.safetensors"), "model-00001-of-00002.safetensors");
        assert_eq!(escape("a b?c#d%2F/é"), "a%20b%3Fc%23d%252F%2F%C3%A9");
    }

    #[test]
    fn tokens_that_no_header_can_carry_are_none() {
        for text in ["", "  ", "a b", "hf_é", "a\nb"] {
            assert!(Token::new(text).is_none(), "{text:?}");
        }
        assert!(Token::new(" hf_secret\n").is_some());
    }
}
