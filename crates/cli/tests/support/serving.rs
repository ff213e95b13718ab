//! A running `edgeward serve`, and ways to talk to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

use super::Sandbox;

/// For an answer of a tiny model on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A server; killed at the end.
pub struct Serving {
    child: Child,
    /// `http://127.0.0.1:PORT`
    pub url: String,
}

/// What the server said.
#[derive(Debug)]
pub struct Said {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Said {
    /// The body, after checking that it is an answer.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        serde_json::from_str(&self.body).unwrap()
    }

    /// Status, `param` and `message` of an error in OpenAI's shape.
    #[track_caller]
    pub fn error(&self) -> (u16, String, String) {
        let body: Value = serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"));
        let error = &body["error"];
        assert!(error["type"].is_string(), "{self:?}");
        let text = |name: &str| error[name].as_str().unwrap_or_default().to_owned();
        (self.status, text("param"), text("message"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The values of a stream's `data:` lines, without the closing `[DONE]`, which must be there.
    #[track_caller]
    pub fn pieces(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.body);
        let lines: Vec<&str> = self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        let (last, pieces) = lines.split_last().unwrap();
        assert_eq!(*last, "[DONE]");
        pieces.iter().map(|piece| serde_json::from_str(piece).unwrap()).collect()
    }
}

impl Serving {
    /// Starts the program with `serve`, these arguments and a free port, and waits until it answers.
    pub fn start(sandbox: &Sandbox, args: &[&str]) -> Serving {
        let mut child = sandbox.command(&[&["serve", "--port", "0"], args].concat()).spawn().unwrap();
        let mut url = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut url).unwrap();
        if url.is_empty() {
            let output = child.wait_with_output().unwrap();
            panic!("it does not serve: {}", String::from_utf8_lossy(&output.stderr));
        }
        Serving { child, url: url.trim_end().to_owned() }
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    fn agent() -> ureq::Agent {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(TIMEOUT));
        config.build().into()
    }

    pub fn get(&self, path: &str) -> Said {
        said(Self::agent().get(format!("{}{path}", self.url)).call())
    }

    pub fn get_with_key(&self, path: &str, key: &str) -> Said {
        let request = Self::agent().get(format!("{}{path}", self.url));
        said(request.header("authorization", format!("Bearer {key}")).call())
    }

    pub fn post(&self, path: &str, body: &Value) -> Said {
        self.post_with(path, &[], body)
    }

    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Said {
        let mut request = Self::agent().post(format!("{}{path}", self.url));
        if headers.iter().all(|(name, _)| *name != "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        said(request.send(body.to_string()))
    }

    /// Sends exactly these bytes and gives what comes back until the server closes, or nothing comes for a while.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // The server may answer and close before it has read all of it.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        stream
    }

    /// The value of a metric without labels but the model's.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let line = text.lines().find(|line| line.starts_with(&format!("edgeward_{name}")));
        line.and_then(|line| line.rsplit_once(' '))
            .unwrap_or_else(|| panic!("{name} in {text}"))
            .1
            .parse()
            .unwrap()
    }

    /// Sends the signal and waits for the end.
    pub fn stop(mut self, signal: &str) -> Option<i32> {
        let kill = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[track_caller]
fn said(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Said {
    let mut answer = answer.unwrap();
    let text = |value: &ureq::http::HeaderValue| value.to_str().unwrap().to_owned();
    Said {
        status: answer.status().as_u16(),
        headers: answer.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body: answer.body_mut().read_to_string().unwrap(),
    }
}
