//! A program on a terminal of its own, which `script` provides (util-linux, part of every Debian): what is typed, and
//! what the screen shows.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::Sandbox;

/// Long enough for a busy machine; reached only when the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Terminal {
    child: Child,
    /// `None` once it has been let go.
    keyboard: Option<ChildStdin>,
    output: Receiver<Vec<u8>>,
    screen: String,
    /// What has been waited for ends here.
    seen_bytes: usize,
}

impl Terminal {
    /// Starts the program with these arguments, which must need no quoting.
    pub fn start(sandbox: &Sandbox, args: &[&str]) -> Terminal {
        // In place of the shell, which would take Ctrl-C for its own.
        let command = format!("exec {} {}", env!("CARGO_BIN_EXE_edgeward"), args.join(" "));
        let mut child = sandbox
            .around(Path::new("/usr/bin/script"), &["-qec", &command, "/dev/null"])
            .env("TERM", "xterm")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let keyboard = child.stdin.take();
        let mut stdout = child.stdout.take().unwrap();
        let (sender, output) = channel();
        std::thread::spawn(move || {
            let mut chunk = [0; 4096];
            while let Ok(n @ 1..) = stdout.read(&mut chunk) {
                if sender.send(chunk[..n].to_vec()).is_err() {
                    break;
                }
            }
        });
        Terminal { child, keyboard, output, screen: String::new(), seen_bytes: 0 }
    }

    /// Waits until the screen shows `text`, after what was waited for before.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.screen[self.seen_bytes..].find(text) {
                self.seen_bytes += at + text.len();
                return;
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.screen.push_str(&String::from_utf8_lossy(&chunk)),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{text:?} never came: {:?}", self.screen)
                }
            }
        }
    }

    pub fn type_keys(&mut self, keys: &str) {
        let keyboard = self.keyboard.as_mut().unwrap();
        keyboard.write_all(keys.as_bytes()).unwrap();
        keyboard.flush().unwrap();
    }

    /// Waits until the program ends; its exit status.
    pub fn end(mut self) -> Option<i32> {
        drop(self.keyboard.take());
        while self.output.recv_timeout(PATIENCE).is_ok() {}
        self.child.wait().unwrap().code()
    }
}

/// A test that fails must not leave a program behind.
impl Drop for Terminal {
    fn drop(&mut self) {
        // Without its terminal the program inside ends too. Both calls fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
