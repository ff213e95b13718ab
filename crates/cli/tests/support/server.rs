//! A small, real HTTP/1.1 server for one test: each request is answered by the test's own function.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// Path and query.
    pub path: String,
    /// Lower-case names with their values.
    pub headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// First byte asked for by `Range: bytes=N-`.
    pub fn first_byte_idx(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// What happens when the body's part to be sent has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// The connection is closed.
    Close,
    /// Nothing, until the client goes away.
    Stall,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    n_bytes_sent: usize,
    after: After,
}

impl Reply {
    pub fn status(status: u16) -> Reply {
        Reply::body(status, b"no".to_vec())
    }

    pub fn json(json: &serde_json::Value) -> Reply {
        Reply::body(200, json.to_string().into_bytes())
    }

    pub fn redirect(location: &str) -> Reply {
        Reply::status(302).with("location", location)
    }

    pub fn body(status: u16, body: Vec<u8>) -> Reply {
        let n_bytes_sent = body.len();
        Reply { status, headers: Vec::new(), body, n_bytes_sent, after: After::Close }
    }

    /// `content`, or the range of it that was asked for.
    pub fn file(request: &Request, content: &[u8]) -> Reply {
        match request.first_byte_idx() {
            Some(first) if first < content.len() => {
                let range = format!("bytes {first}-{}/{}", content.len() - 1, content.len());
                Reply::body(206, content[first..].to_vec()).with("content-range", &range)
            }
            Some(_) => Reply::status(416),
            None => Reply::body(200, content.to_vec()),
        }
    }

    pub fn with(mut self, name: &str, value: &str) -> Reply {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends only that much of the body, although more is announced.
    pub fn cut(mut self, n_bytes: usize, after: After) -> Reply {
        self.n_bytes_sent = n_bytes;
        self.after = after;
        self
    }
}

/// A server on a free port of this machine.
pub struct Server {
    addr: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` is called with each request and its number, counted from 0.
    pub fn start(answer: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let answer = Arc::new(answer);
        let seen = Arc::clone(&requests);
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answer, seen) = (Arc::clone(&answer), Arc::clone(&seen));
                std::thread::spawn(move || serve(stream, &*answer, &seen));
            }
        });
        Server { addr, requests }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&Request, usize) -> Reply, seen: &Mutex<Vec<Request>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) => headers.push((name.to_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let request = Request { path, headers };
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    let reply = answer(&request, number);
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(name, _)| name == "content-length") {
        head.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    // The client may be gone already: that is its right.
    let sent =
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&reply.body[..reply.n_bytes_sent]));
    if sent.is_ok() && reply.after == After::Stall {
        let mut rest = String::new();
        while reader.read_line(&mut rest).unwrap_or(0) > 0 {}
    }
    let _ = stream.shutdown(Shutdown::Both);
}
