//! What the user sees of a long job: a bar on standard error, or nothing.

use std::io::IsTerminal;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::printable;

/// How much is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Also what is being done.
    Normal,
}

/// One job's progress.
pub struct Progress {
    bar: ProgressBar,
    verbosity: Verbosity,
}

impl Progress {
    /// A bar appears only on a terminal, and not when quiet.
    pub fn new(verbosity: Verbosity) -> Progress {
        Progress { bar: ProgressBar::hidden(), verbosity }
    }

    /// Whether a bar is shown once there is something to show.
    pub fn is_visible(&self) -> bool {
        self.verbosity == Verbosity::Normal && std::io::stderr().is_terminal()
    }

    /// Says what is being done, on a line of its own.
    pub fn note(&self, line: &str) {
        if self.verbosity == Verbosity::Normal {
            self.bar.suspend(|| eprintln!("{}", printable(line)));
        }
    }

    /// A new bar for `label`, `done_bytes` of `total_bytes` being here already.
    pub fn start(&mut self, label: &str, done_bytes: u64, total_bytes: u64) {
        self.finish();
        if !self.is_visible() {
            return;
        }
        let style = ProgressStyle::with_template(
            "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} ({eta})",
        )
        .expect("the template above is well formed")
        .progress_chars("=> ");
        self.bar = ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
        self.bar.set_style(style);
        self.bar.set_message(label.to_owned());
        self.bar.set_position(done_bytes);
        // The speed shown is this run's, not that of bytes which were here before.
        self.bar.reset_eta();
    }

    /// A new bar for `label`, `done` of `total` steps being done already.
    pub fn start_steps(&mut self, label: &str, done: usize, total: usize) {
        self.finish();
        if !self.is_visible() {
            return;
        }
        let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos}/{len} ({eta})")
            .expect("the template above is well formed")
            .progress_chars("=> ");
        self.bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stderr());
        self.bar.set_style(style);
        self.bar.set_message(label.to_owned());
        self.bar.set_position(done as u64);
        self.bar.reset_eta();
    }

    /// `n_bytes` more are here, or so many steps done.
    pub fn advance(&self, n_bytes: u64) {
        self.bar.inc(n_bytes);
    }

    /// So many steps are done.
    pub fn set(&self, done: usize) {
        self.bar.set_position(done as u64);
    }

    /// Everything is to be fetched again.
    pub fn restart(&self) {
        self.bar.set_position(0);
    }

    /// Takes the bar away.
    pub fn finish(&mut self) {
        self.bar.finish_and_clear();
        self.bar = ProgressBar::hidden();
    }
}
